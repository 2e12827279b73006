"""Write a job's run: opened before the work, closed as FINISHED or FAILED."""

from __future__ import annotations

import csv
import json
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import yaml

from harness.config import Job, TrackingConfig
from harness.provenance import commit, machine, versions
from harness.record import SCHEMA_VERSION, ImageScore, Record, StoredRun
from harness.tracking.read import (
    COUNTS,
    ERROR_CLASS,
    ERROR_MESSAGE,
    SCORES,
    SECONDS,
    UNDEFINED,
    stored,
)
from harness.tracking.store import connect, experiment_id, store_uri


class Tracker(Protocol):
    """What the sweep asks of a tracking store."""

    def finished(self, identity: str, *, dataset: str) -> StoredRun | None:
        """Return the newest finished run of that identity, or None."""

    def start(self, job: Job, identity: str | None) -> str:
        """Open a run and return its id."""

    def finish(self, run_id: str, job: Job, *, record: Record) -> None:
        """Write the record and close the run as FINISHED."""

    def fail(self, run_id: str, error: BaseException) -> None:
        """Write the error and close the run as FAILED."""


def open_tracker(config: TrackingConfig) -> Tracker:
    """Return the tracker that `conf/tracking` names.

    Raises
    ------
    ValueError
        If `tracking.kind` is neither `mlflow` nor `none`.
    """
    if config.kind == "mlflow":
        return MlflowTracker(store_uri(config.uri))
    if config.kind == "none":
        return NoTracker()
    raise ValueError(f"tracking.kind must be one of mlflow, none; got {config.kind!r}")


class NoTracker:
    """Keeps nothing."""

    def finished(self, identity: str, *, dataset: str) -> None:
        """Return None: nothing was kept."""

    def start(self, job: Job, identity: str | None) -> str:
        """Open nothing; there is no run and so no id."""
        return ""

    def finish(self, run_id: str, job: Job, *, record: Record) -> None:
        """Write nothing."""

    def fail(self, run_id: str, error: BaseException) -> None:
        """Write nothing."""


class MlflowTracker:
    """Writes runs to one MLflow store.

    Parameters
    ----------
    uri : str
        The tracking URI.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = connect(uri)

    def finished(self, identity: str, *, dataset: str) -> StoredRun | None:
        """Return the newest finished run of that identity, or None."""
        found = self._client.search_runs(
            [experiment_id(self._client, self._uri, name=dataset)],
            f"tags.identity = '{identity}' and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return stored(found[0]) if found else None

    def start(self, job: Job, identity: str | None) -> str:
        """Open a run and return its id."""
        tags = _job_tags(job) | _code_tags()
        if identity is not None:
            tags["identity"] = identity
        experiment = experiment_id(self._client, self._uri, name=job.dataset.name)
        run = self._client.create_run(experiment, run_name=str(job), tags=tags)
        return str(run.info.run_id)

    def finish(self, run_id: str, job: Job, *, record: Record) -> None:
        """Write the record and close the run as FINISHED."""
        from harness.figures import draw_scores

        with tempfile.TemporaryDirectory() as folder:
            _write_scores(Path(folder, SCORES), record.scores)
            _write_job(Path(folder, "job.yaml"), job)
            draw_scores(Path(folder, "scores.png"), record)
            self._client.log_artifacts(run_id, folder)
        self._log_values(run_id, record)
        self._client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str, error: BaseException) -> None:
        """Write the error and close the run as FAILED."""
        self._client.set_tag(run_id, ERROR_CLASS, type(error).__name__)
        self._client.set_tag(run_id, ERROR_MESSAGE, str(error))
        text = "".join(traceback.format_exception(error))
        self._client.log_text(run_id, text, "traceback.txt")
        self._client.set_terminated(run_id, "FAILED")

    def _log_values(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        seconds = {SECONDS + stage: value for stage, value in record.durations.items()}
        self._client.log_batch(
            run_id,
            metrics=[Metric(k, v, now, 0) for k, v in (record.metrics | seconds).items()],
            params=[Param(name, value) for name, value in _params(record).items()],
            tags=[RunTag(name, value) for name, value in _record_tags(record).items()],
        )


def _job_tags(job: Job) -> dict[str, str]:
    return {
        "schema": str(SCHEMA_VERSION),
        "dataset": job.dataset.name,
        "category": job.category,
        "model": job.model.name,
        "backbone": job.backbone.name,
        "seed": str(job.seed),
    }


def _code_tags() -> dict[str, str]:
    return {
        "commit": commit().sha,
        "dirty": str(commit().dirty).lower(),
        "versions": json.dumps(versions()),
        "machine": json.dumps(machine()),
    }


def _record_tags(record: Record) -> dict[str, str]:
    return {
        "weights_digest": record.weights_digest,
        "data_fingerprint": record.data_fingerprint,
        "official": str(record.official).lower(),
    } | {UNDEFINED + name: reason for name, reason in record.undefined.items()}


def _params(record: Record) -> dict[str, str]:
    return record.settings | {param: str(getattr(record, field)) for field, param in COUNTS.items()}


def _write_scores(path: Path, scores: tuple[ImageScore, ...]) -> None:
    # repr() of a float64 reads back to the same bits.
    rows = [(s.image, s.defect_type, int(s.anomalous), repr(s.score)) for s in scores]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([ImageScore._fields, *rows])


def _write_job(path: Path, job: Job) -> None:
    path.write_text(yaml.safe_dump(asdict(job), allow_unicode=True), encoding="utf-8")
