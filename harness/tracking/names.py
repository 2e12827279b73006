"""How a record's fields are called in MLflow."""

from __future__ import annotations

SCORES = "scores.csv"
JOB = "job.yaml"
SECONDS = "seconds."
UNDEFINED = "undefined."
ERROR_CLASS = "error.class"
ERROR_MESSAGE = "error.message"
IDENTITY = "identity"
CODE = "code"
SCHEMA = "schema"
SWEPT = "swept"
"""The settings that set a run apart from others of its sweep."""
AVERAGE = "average"
"""Marks a run of averages: a digest of the ids of the runs that it averages."""
RUNS = "runs"
"""Which runs those are."""
COUNTS = {
    "n_train": "images.train",
    "n_test_normal": "images.test_normal",
    "n_test_anomalous": "images.test_anomalous",
}
HOST = "process.host"
PID = "process.pid"
LOCKS = "process.locks"
"""The folder in which the process that writes a run holds the job's lock."""
ENTRY = "outbox.entry"
"""The entry of an outbox that a run was created from."""
