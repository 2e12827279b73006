"""What of a job and its record goes into MLflow: tags, params, metrics and artifacts."""

from __future__ import annotations

import csv
import json
import traceback
from dataclasses import asdict
from pathlib import Path

import yaml

from harness.config import Job
from harness.provenance import commit, machine, versions
from harness.record import SCHEMA_VERSION, ImageScore, Record
from harness.tracking.names import (
    COUNTS,
    ERROR_CLASS,
    ERROR_MESSAGE,
    IDENTITY,
    JOB,
    SCORES,
    SECONDS,
    UNDEFINED,
)

# MLflow holds no longer digest of a dataset.
_DIGEST = 36


def job_tags(job: Job, identity: str | None) -> dict[str, str]:
    """Return what is known of a job before it runs."""
    tags = {
        "schema": str(SCHEMA_VERSION),
        "dataset": job.dataset.name,
        "category": job.category,
        "model": job.model.name,
        "backbone": job.backbone.name,
        "seed": str(job.seed),
        "commit": commit().sha,
        "dirty": str(commit().dirty).lower(),
        "versions": json.dumps(versions()),
        "machine": json.dumps(machine()),
    }
    return tags if identity is None else tags | {IDENTITY: identity, "job": identity[:8]}


def record_tags(record: Record) -> dict[str, str]:
    """Return a record's traces and why any metric is undefined."""
    return {
        "weights_digest": record.weights_digest,
        "data_fingerprint": record.data_fingerprint,
        "official": str(record.official).lower(),
    } | {UNDEFINED + name: reason for name, reason in record.undefined.items()}


def error_tags(error: BaseException) -> dict[str, str]:
    """Return an error's class and message."""
    return {ERROR_CLASS: type(error).__name__, ERROR_MESSAGE: str(error)}


def params(record: Record) -> dict[str, str]:
    """Return the settings and the numbers of images."""
    return record.settings | {param: str(getattr(record, field)) for field, param in COUNTS.items()}


def planned(job: Job) -> dict[str, str]:
    """Return the settings of a job that are known even if it failed before it read anything."""
    values = job.protocol() | {f"model.{name}": job.model.params[name] for name in job.model.params}
    values.pop("model.random_state", None)  # the seed, which stands for itself
    if job.center_crop is not None:  # as in `harness.identity`
        values["center_crop"] = job.center_crop
    return {name: str(value) for name, value in values.items()}


def metrics(record: Record) -> dict[str, float]:
    """Return the metrics and the seconds of each stage."""
    return record.metrics | {SECONDS + stage: value for stage, value in record.durations.items()}


def source(job: Job, record: Record) -> dict[str, str]:
    """Describe the images of a job as MLflow describes a dataset."""
    counts = {name: getattr(record, name) for name in COUNTS}
    return {
        "name": f"{record.dataset}/{record.category}",
        "digest": record.data_fingerprint[:_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": f"{job.dataset.title}, {record.category}"}),
        "profile": json.dumps(counts),
    }


def write_record(folder: Path, job: Job, *, record: Record) -> None:
    """Write the artifacts of a finished job: scores, settings and figures."""
    from harness.figures import draw_curves, draw_mistakes

    _write_scores(folder / SCORES, record.scores)
    text = yaml.safe_dump(asdict(job), allow_unicode=True)
    (folder / JOB).write_text(text, encoding="utf-8")
    (folder / "curves.svg").write_text(draw_curves(record), encoding="utf-8")
    if record.mistakes:
        text = draw_mistakes(record.mistakes)
        (folder / "mistakes.svg").write_text(text, encoding="utf-8")


def write_traceback(folder: Path, error: BaseException) -> None:
    """Write the artifact of a failed job."""
    text = "".join(traceback.format_exception(error))
    (folder / "traceback.txt").write_text(text, encoding="utf-8")


def _write_scores(path: Path, scores: tuple[ImageScore, ...]) -> None:
    # repr() of a float64 reads back to the same bits.
    rows = [(s.image, s.defect_type, int(s.anomalous), repr(s.score)) for s in scores]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([ImageScore._fields, *rows])
