"""What a job leaves behind: scores, metrics, durations; and the same read back from a run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Stages:
    """A stopwatch with named laps.

    Parameters
    ----------
    watch : callable, optional
        Called with a stage's name when it begins.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time of every stage so far.

    Examples
    --------
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


SCHEMA_VERSION = 3
"""Raised whenever a field of the record, or the code behind a number, changes its meaning."""
OLDEST_SCHEMA = 2
"""Of the published results that are read still; raised when all of them have been made anew."""


class ImageScore(NamedTuple):
    """The raw result for one test image.

    Attributes
    ----------
    image : str
        Path of the image relative to the dataset's root, with forward slashes.
    defect_type : str
        The defect type's name; `good` for a normal image.
    anomalous : bool
        The image-level ground truth.
    score : float
        The anomaly score, float64, unbounded: the higher, the more anomalous.
    """

    image: str
    defect_type: str
    anomalous: bool
    score: float


class Mistake(NamedTuple):
    """A test image on the wrong side of images of the other kind, to be shown.

    Attributes
    ----------
    image : ImageScore
        The image and its score.
    note : str
        What is wrong, in words.
    path : Path
        The image file.
    anomaly_map : ndarray of shape (h, w), optional
        On the backbone's grid; None where the job made no maps.
    covers : float
        The share of the image's height and of its width, about the centre, that the map covers.
    """

    image: ImageScore
    note: str
    path: Path
    anomaly_map: NDArray[Any] | None
    covers: float = 1.0


def finite(score: str) -> float:
    """Read an anomaly score; no job gives one that is not finite."""
    if not math.isfinite(value := float(score)):
        raise ValueError(f"a score must be finite, got {score!r}")
    return value


@dataclass(frozen=True)
class Record:
    """One job's numbers and all that is needed to trace them.

    Attributes
    ----------
    dataset, category, model, backbone : str
        The names of the cell, as in the tables.
    model_factory, backbone_factory : str
        What built them, as `module:name`: a name can be given to anything.
    seed : int
        The seed of every random draw.
    settings : dict of str to str
        The remaining values that determine the numbers, flat: `image_size`, `localizer`,
        `model.n_components`, ...; compared when a table picks its runs.
    weights_digest : str
        SHA-256 over the backbone's tensors, hexadecimal.
    data_fingerprint : str
        Digest over the relative paths and contents of the category's files, hexadecimal.
    official : bool
        Whether the data equal the published dataset. Unofficial records enter no README table.
    n_train, n_test_normal, n_test_anomalous : int
        Numbers of images.
    metrics : dict of str to float
        By name of `harness.metrics.METRICS`. A metric that is undefined is absent here.
    undefined : dict of str to str
        Why each absent metric is undefined, by metric name.
    scores : tuple of ImageScore
        In the order of the test split.
    durations : dict of str to float
        Seconds by stage: `data`, `features`, `model`, `image metrics`, `anomaly maps`, and
        `pixel metrics`.
    mistakes : tuple of Mistake
        For the job's figures only; never stored.
    """

    dataset: str
    category: str
    model: str
    backbone: str
    model_factory: str
    backbone_factory: str
    seed: int
    settings: dict[str, str]
    weights_digest: str
    data_fingerprint: str
    official: bool
    n_train: int
    n_test_normal: int
    n_test_anomalous: int
    metrics: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)
    scores: tuple[ImageScore, ...] = ()
    durations: dict[str, float] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class StoredRun:
    """A tracked run as `harness.tracking.read_runs` gives it and `harness.report` reads it.

    Attributes
    ----------
    run_id : str
        The tracking server's name of the run.
    status : str
        `finished` or `failed`.
    identity : str
        The job's identity: where it is equal for two runs, their numbers must be; empty for a job
        that failed before it was known.
    record : Record
        What the job gave; a failed job's has no metrics and no scores.
    error : str, optional
        Why the job failed, in one line; None for a finished one.
    started : str
        When the job started, UTC, ISO 8601: `2025-11-23T14:19:00Z`.
    commit : str
        The code's commit, hexadecimal.
    dirty : bool
        Whether the working tree differed from that commit.
    versions : dict of str to str
        Versions of Python and of the libraries that the numbers depend on.
    machine : dict of str to str
        The machine: platform, processor, cores.
    """

    run_id: str
    status: str
    identity: str
    record: Record
    error: str | None
    started: str
    commit: str
    dirty: bool
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
