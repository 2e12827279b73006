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
COUNTS = {
    "n_train": "images.train",
    "n_test_normal": "images.test_normal",
    "n_test_anomalous": "images.test_anomalous",
}
