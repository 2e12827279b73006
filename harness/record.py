"""What a job leaves behind: its record, the same read back from a run, and its outcome."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


SCHEMA_VERSION = 3
"""Raised whenever a field of the record, or the code behind a number, changes its meaning."""
EXTRACTION = "extraction"
"""In `Record.durations`: seconds of a job that extracted the features of all its images itself."""
OLDEST_SCHEMA = 2
"""Of the published results that are still read; raised when all of them have been run again."""


class ImageScore(NamedTuple):
    """The raw result for one test image."""

    image: str
    """Path relative to the dataset's root, with forward slashes."""
    defect_type: str
    """`good` for a normal image."""
    anomalous: bool
    score: float
    """The anomaly score, float64, unbounded: the higher, the more anomalous."""


class Mistake(NamedTuple):
    """A test image on the wrong side of images of the other kind, for a figure."""

    image: ImageScore
    note: str
    """What is wrong, in words."""
    path: Path
    anomaly_map: NDArray[Any] | None
    """Shape (h, w) of the feature map; None where the job made no maps."""
    covers: float = 1.0
    """The share of the image's height and of its width, about the centre, that the map covers."""


@dataclass(frozen=True)
class Record:
    """One job's numbers and all that is needed to trace them."""

    dataset: str
    category: str
    model: str
    backbone: str
    model_factory: str
    """What built the model, as `module:name`, for a name can be given to anything."""
    backbone_factory: str
    seed: int
    """Of every random draw."""
    settings: dict[str, str]
    """The remaining values that determine the numbers: `image_size`, `model.n_components`, ..."""
    weights_digest: str
    """SHA-256 over the backbone's tensors, hexadecimal."""
    data_fingerprint: str
    """Digest over the relative paths and contents of the category's files, hexadecimal."""
    official: bool
    """Whether the data equal the published dataset; else the record enters no README table."""
    n_train: int
    n_test_normal: int
    n_test_anomalous: int
    metrics: dict[str, float]
    """By name of `harness.metrics.METRICS`; an undefined metric is absent."""
    undefined: dict[str, str] = field(default_factory=dict)
    """Why each absent metric is undefined, by name."""
    scores: tuple[ImageScore, ...] = ()
    """In the order of the test split."""
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds by stage: data, features, model, image metrics, anomaly maps, pixel metrics.

    `EXTRACTION` repeats those of the features where none of them came from the cache.
    """
    n_left_out: int = 0
    """Images that `dataset.exclude` leaves out."""
    n_duplicates: int = 0
    """Images with the bytes of another one, where the seed draws the split."""
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False, compare=False)
    """For the job's figures only; never stored."""


@dataclass(frozen=True)
class StoredRun:
    """A tracked run as `harness.tracking.read_runs` returns it and `harness.report` reads it."""

    run_id: str
    status: str
    """`finished` or `failed`."""
    identity: str
    """Runs of one identity have the same numbers; empty if the job failed before it was known."""
    record: Record
    """Without metrics and scores if the job failed."""
    error: str | None
    """Why the job failed, in one line."""
    started: str
    """UTC, ISO 8601: `2025-11-23T14:19:00Z`."""
    commit: str
    dirty: bool
    """Whether the working tree differed from that commit."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and of the libraries that the numbers depend on."""
    machine: dict[str, str] = field(default_factory=dict)
    """Its platform, processor and cores."""


Status = Literal["finished", "skipped", "busy", "failed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """One job's end."""

    job: str  # its name, as its run is named
    # `skipped` where a run of the same job is finished, `busy` where one is running elsewhere,
    # `stopped` where the sweep ended before the job.
    status: Status
    run_id: str | None = None  # the MLflow run that holds the record
    metrics: dict[str, float] = field(default_factory=dict)  # of a skipped job, its finished run's
    # Why it failed or has no metrics, or which run made it needless, in one line.
    reason: str | None = None
    # The settings by which `harness.predict` finds the model that was to be saved; empty where a
    # skipped job's run kept none.
    model: str | None = None
    seconds: float = 0.0  # wall time
    n_images: int = 0  # how many it read
    identity: str = ""  # empty where the job failed before that was known
    notes: tuple[str, ...] = ()  # of its data, as `Split.notes`


class Stages:
    """A stopwatch with named laps: `seconds` is the wall time of every stage so far.

    `watch` is called with a stage's name when it begins.

    >>> stages = Stages()
    >>> with stages("fit"):
    ...     pass
    >>> list(stages.seconds)
    ['fit']
    """

    def __init__(self, watch: Callable[[str], object] | None = None) -> None:
        self._watch = watch
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement under that name; repeated names add up."""
        if self._watch is not None:
            self._watch(name)
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        log.info("%s: %.3f s", name, elapsed)
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed


def finite(score: str) -> float:
    """Read an anomaly score; no job gives one that is not finite."""
    if not math.isfinite(value := float(score)):
        raise ValueError(f"a score must be finite, got {score!r}")
    return value
