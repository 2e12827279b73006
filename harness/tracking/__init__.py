"""Runs in MLflow: one run for each job, written in batch calls and read back as records.

The only package that imports mlflow, and only once a run is written or read.
"""

from functools import lru_cache
from pathlib import Path

from harness.config import TrackingConfig
from harness.tracking.contents import Known
from harness.tracking.read import outdated, read_job, read_record, read_runs, read_scores
from harness.tracking.store import StoreError, store_folder, store_uri
from harness.tracking.tracker import Earlier, MlflowTracker, OpenRun, Tracker

__all__ = [
    "Earlier",
    "Known",
    "OpenRun",
    "StoreError",
    "Tracker",
    "open_tracker",
    "outdated",
    "read_job",
    "read_record",
    "read_runs",
    "read_scores",
    "store_uri",
]


_LONGEST_PREFIX = 100


def open_tracker(config: TrackingConfig, cache: str | None) -> Tracker:
    """Return the tracker that `conf/tracking` names; the same one for equal settings.

    Parameters
    ----------
    config : TrackingConfig
        The store.
    cache : str, optional
        The feature cache, in which the locks of running jobs are if the store is a server.

    Raises
    ------
    StoreError
        If `tracking.kind` is neither `mlflow` nor `none`, no store holds the prefix,
        or the address holds a password.
    """
    if len(config.prefix) > _LONGEST_PREFIX or not config.prefix.isprintable():
        rule = f"at most {_LONGEST_PREFIX} characters without control characters"
        raise StoreError(f"tracking.prefix must be {rule}, got {config.prefix!a}")
    if config.kind == "mlflow":
        uri = store_uri(config.uri)
        folder = store_folder(uri) or (None if cache is None else Path(cache).resolve())
        locks = None if folder is None else folder / "locks"
        return _mlflow_tracker(uri, locks, config.prefix)
    if config.kind == "none":
        return Tracker()
    raise StoreError(f"tracking.kind must be one of mlflow, none; got {config.kind!r}")


# One for each store and process: connecting takes longer than writing a run.
_mlflow_tracker = lru_cache(maxsize=None)(MlflowTracker)
