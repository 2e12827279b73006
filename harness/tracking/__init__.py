"""Runs in MLflow: one run for each job, written in batch calls and read back as records.

The only package that imports mlflow, and only once a run is written or read.
"""

from harness.tracking.read import read_runs, read_scores
from harness.tracking.store import store_uri
from harness.tracking.write import NoTracker, Tracker, open_tracker

__all__ = ["NoTracker", "Tracker", "open_tracker", "read_runs", "read_scores", "store_uri"]
