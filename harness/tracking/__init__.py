"""Runs in MLflow: one run for each job, written in batch calls and read back as records.

The only package that imports mlflow, and only once a run is written or read.
"""

from harness.tracking.contents import JobKey
from harness.tracking.read import outdated, read_job, read_record, read_runs, read_scores
from harness.tracking.store import StoreError, store_uri
from harness.tracking.tracker import MlflowTracker, OpenRun, Tracker, open_tracker

__all__ = [
    "JobKey",
    "MlflowTracker",
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
