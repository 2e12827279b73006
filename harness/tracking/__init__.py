"""Runs in MLflow: one run for each job, written in batch calls and read back as records.

The only package that imports mlflow, and only once a run is written or read.
"""

from functools import cache

from harness.config import TrackingConfig
from harness.tracking.read import outdated, read_job, read_record, read_runs, read_scores
from harness.tracking.store import StoreError, store_uri
from harness.tracking.tracker import Earlier, Known, NoTracker, OpenRun, Tracker
from harness.tracking.write import MlflowTracker

__all__ = [
    "Earlier",
    "Known",
    "NoTracker",
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


def open_tracker(config: TrackingConfig) -> Tracker:
    """Return the tracker that `conf/tracking` names; the same one for equal settings.

    Raises
    ------
    StoreError
        If `tracking.kind` is neither `mlflow` nor `none`.
    """
    if config.kind == "mlflow":
        return _mlflow_tracker(store_uri(config.uri))
    if config.kind == "none":
        return NoTracker()
    raise StoreError(f"tracking.kind must be one of mlflow, none; got {config.kind!r}")


# One for each store and process: connecting takes longer than writing a run.
_mlflow_tracker = cache(MlflowTracker)
