"""The plan of a sweep: what would become of each job, found without doing any of the work.

It opens no run, writes nothing and builds no network: what only the images or the network can tell
is said to be unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from dfkde.backbones.presence import WeightsError
from harness.checks import check_images, check_jobs, check_settings
from harness.config import Config, Job, TrackingConfig, all_stages, name_differences
from harness.provenance import machine
from harness.record import EXTRACTION
from harness.sweep.task import split_and_key
from harness.tracking import JobKey, open_tracker, store_uri
from harness.tracking.contents import COUNTS, SECONDS
from harness.tracking.store import connect, ended_runs, errors_of, sqlite_file

if TYPE_CHECKING:
    from harness.data.listing import Listing

_CAN_RUN = ("run", "skipped")
_ABSENT = "missing data"
_WIDTH = 17  # of a status


class Planned(NamedTuple):
    """What would become of a job: `run`, `skipped`, or what is missing or wrong; and why."""

    status: str
    detail: str


def plan(configs: Sequence[Config], *, local: bool = True) -> tuple[list[str], bool]:
    """Say in lines what would become of each job, and whether all of them can run.

    With `local=False` other machines do the jobs: whether they have the images and the weights
    cannot be seen from here.
    """
    known = _Planner(configs[0].tracking)
    jobs = name_differences([config.job() for config in configs])
    planned = [
        known.planned(config, job, local=local) for config, job in zip(configs, jobs, strict=True)
    ]
    lines, said = [], ""
    for job, one in zip(jobs, planned, strict=True):
        lines.append(f"{one.status:{_WIDTH}}{job}")
        if one.detail not in ("", said):
            lines.append(f"{'':{_WIDTH}}{one.detail}")
        said = "" if one.status in _CAN_RUN else one.detail  # a reason is said once for all
    total = ", ".join(f"{n} {status}" for status, n in Counter(p.status for p in planned).items())
    time = f"; {_duration(known.seconds)} in all" if known.seconds else ""
    problem = _problem(lambda: check_jobs(configs, local=local))
    lines.append(f"{len(planned)} job{'s' * (len(planned) > 1)}: {total}{time}")
    if problem is not None and problem.detail not in {one.detail for one in planned}:
        lines.append(problem.detail)
    return lines, all(one.status in _CAN_RUN for one in planned)


def _problem(check: Callable[[], object]) -> Planned | None:
    """Return what a check finds missing or wrong."""
    from harness.data.listing import AbsentError

    try:
        check()
    except WeightsError as error:
        return Planned("missing weights", str(error))
    except AbsentError as error:
        return Planned(_ABSENT, str(error))
    except ValueError as error:
        return Planned("wrong setting", str(error))
    return None


class _Planner:
    """What caches and earlier runs tell of the jobs of a plan, in their order."""

    def __init__(self, tracking: TrackingConfig) -> None:
        self._tracking = tracking
        self._runs = _earlier_runs(tracking)
        self._to_extract: set[tuple[str, str]] = set()
        self._problems: dict[str, Planned | None] = {}
        self.seconds = 0.0

    def planned(self, config: Config, job: Job, *, local: bool) -> Planned:
        """Plan a job; what does not depend on its category is checked once."""
        shared = repr(replace(config, category=None))
        if shared not in self._problems:
            self._problems[shared] = _problem(lambda: check_settings([config], weights=local))
        problem = self._problems[shared] or _problem(lambda: check_images([config], local=local))
        if problem is not None:
            return Planned(_ABSENT, "") if problem.status == _ABSENT else problem
        if not local:
            return Planned("run", "on a cluster: its images and weights cannot be seen from here")
        from harness.data.listing import DataError

        try:
            return self._local(config, job)
        except DataError as error:
            return Planned("broken data", str(error))

    def _local(self, config: Config, job: Job) -> Planned:
        from harness.data.load import is_inspected, list_images
        from harness.fitting import has_masks, reader_of, spec_of

        root, listing = list_images(job.dataset, job.category, seed=job.seed)
        if not is_inspected(root, listing, category=job.category):
            return self._unknown(config, job, root, listing, until="images are read")
        if not _is_known(config, job):
            return self._unknown(config, job, root, listing, until="network is built")
        split, key = split_and_key(job)
        reason = None if config.force else self._finished(config, job, key)
        if reason is not None:
            return Planned("skipped", f"by {reason}; force=true runs it again")
        from harness.features.feature_cache import MAPS, POOLED, Store, maps_of

        reader, shared = reader_of(job), all_stages(job.map_layers)
        spec = reader.spec if shared else spec_of(job, reader)
        store = Store(Path(str(config.features.cache)), spec)
        entries = {(reader.spec.key, sample.digest) for sample in (*split.train, *split.test)}
        pooled = (POOLED, MAPS) if has_masks(split) and job.localizer != "none" else (POOLED,)
        kinds = tuple(map(maps_of, job.map_layers)) or pooled
        kept = config.features.maps or kinds == (POOLED,)  # other maps are computed each time
        missing = {
            (section, digest)
            for section, digest in entries - self._to_extract
            if not (kept and all(store.has(digest, kind) for kind in kinds))
        }
        self._to_extract |= missing
        return self._run(job, len(missing), f"{len(missing)} images to extract")

    def _unknown(
        self, config: Config, job: Job, root: Path, listing: Listing, *, until: str
    ) -> Planned:
        """Plan all images that no job before extracts with the same network, as at most needed."""
        seed = config.seed if config.allow_random_weights else None
        features = config.backbone, config.image_size, config.center_crop, config.features, seed
        images = {(repr(features), f"{root}/{one.name}") for one in (*listing.train, *listing.test)}
        n_images = len(images - self._to_extract)
        self._to_extract |= images
        return self._run(
            job, n_images, f"unknown until the {until}: at most {n_images} images to extract"
        )

    def _run(self, job: Job, n_images: int, detail: str) -> Planned:
        seconds = _estimate(self._runs, job, n_images)
        if seconds is None:
            return Planned("run", f"{detail}; no earlier run to estimate the time from")
        self.seconds += seconds
        return Planned("run", f"{detail}; {_duration(seconds)}")

    def _finished(self, config: Config, job: Job, key: JobKey) -> str | None:
        """Return the run for which the job is skipped; no store and no experiment is made."""
        name, uri = f"{self._tracking.prefix}{job.dataset.name}", store_uri(self._tracking.uri)
        if not self._runs or connect(uri).get_experiment_by_name(name) is None:
            return None
        outcome = open_tracker(self._tracking, config.features.cache).finished_run(job, key)
        return None if outcome is None else outcome.reason


def _is_known(config: Config, job: Job) -> bool:
    """Return whether the digests of a job's network are cached; else the network must be built."""
    from harness.features.extractor import LazyExtractor
    from harness.features.settings import input_shape

    seed = config.seed if config.allow_random_weights else None
    extractor = LazyExtractor(config.backbone, cache=config.features.cache, random_seed=seed)
    size, crop = config.image_size, config.center_crop
    shape = input_shape(config.features, image_size=size, center_crop=crop)
    whole = extractor.with_maps(tuple(sorted(job.map_layers)))
    return extractor.is_known(shape) and whole.is_known(shape)


def _earlier_runs(tracking: TrackingConfig) -> list[Any]:
    """Return the ended runs of a store, if there is one; raises `StoreError`."""
    uri = store_uri(tracking.uri)
    file = sqlite_file(uri)
    if tracking.kind == "none" or (file is not None and not file.exists()):
        return []
    with errors_of(uri):
        return list(ended_runs(connect(uri), file))


def _estimate(runs: Sequence[Any], job: Job, n_images: int) -> float | None:
    """Return the seconds of a job, by earlier ones of this machine, its backbone and its model."""
    like = {"machine": json.dumps(machine()), "backbone": job.backbone.label}
    rates, rests = [], []
    for run in (run for run in runs if like.items() <= run.data.tags.items()):
        seconds = {
            name.removeprefix(SECONDS): float(value)
            for name, value in run.data.metrics.items()
            if name.startswith(SECONDS)
        }
        extraction = seconds.pop(EXTRACTION, None)
        features = seconds.pop("features", 0.0)
        n_run = sum(int(run.data.params.get(name, 0)) for name in COUNTS.values())
        if extraction is not None and n_run:
            rates.append(extraction / n_run)
        if run.info.status == "FINISHED" and run.data.tags.get("model") == job.model.name:
            rests.append(sum(seconds.values()) + (features if extraction is None else 0.0))
    if not rests or (n_images and not rates):
        return None
    return median(rests) + (median(rates) * n_images if n_images else 0.0)


def _duration(seconds: float) -> str:
    """Write seconds as people say them.

    >>> _duration(42.3), _duration(5400)
    ('about 42 s', 'about 90 min')
    """
    return f"about {max(seconds, 1):.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"
