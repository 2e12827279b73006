"""What of a job and its record goes into MLflow: tags, params, metrics and artifacts."""

from __future__ import annotations

import csv
import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from harness.code import CHANGED, code_changed
from harness.config import Job
from harness.models import without_seed
from harness.provenance import commit, machine, versions
from harness.record import SCHEMA_VERSION, ImageScore, Record
from harness.tracking.names import (
    CODE,
    COUNTS,
    ERROR_CLASS,
    ERROR_MESSAGE,
    IDENTITY,
    JOB,
    SCHEMA,
    SCORES,
    SECONDS,
    UNDEFINED,
)
from harness.tracking.tracker import Known

log = logging.getLogger(__name__)

# In C where PyYAML was built with it: a job is written in a fifth of the time.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# MLflow holds no longer digest of a dataset.
_DIGEST = 36


def job_tags(job: Job, known: Known | None) -> dict[str, str]:
    """Return what is known of a job before it runs."""
    tags = {
        SCHEMA: str(SCHEMA_VERSION),
        "dataset": job.dataset.name,
        "category": job.category,
        "model": job.model.name,
        "backbone": job.backbone.label,
        "model_factory": job.model.factory,
        "backbone_factory": job.backbone.factory,
        "seed": str(job.seed),
        "commit": commit().sha,
        "dirty": str(commit().dirty).lower(),
        "versions": json.dumps(versions()),
        "machine": json.dumps(machine()),
    }
    return tags if known is None else tags | _known_tags(known)


def _known_tags(known: Known) -> dict[str, str]:
    return {
        IDENTITY: known.identity,
        "job": known.identity[:8],
        "official": str(known.official).lower(),
        CODE: known.code,
    }


def changed_tags(job: Job) -> dict[str, str]:
    """Return the tag of a job whose code was edited meanwhile: which code ran is not known."""
    if not code_changed(job):
        return {}
    log.warning("%s: the code has been edited since this process read it", job)
    return {CODE: CHANGED}


def record_tags(record: Record) -> dict[str, str]:
    """Return a record's traces and why any metric is undefined."""
    return {
        "weights_digest": record.weights_digest,
        "data_fingerprint": record.data_fingerprint,
    } | {UNDEFINED + name: reason for name, reason in record.undefined.items()}


def error_tags(error: BaseException) -> dict[str, str]:
    """Return an error's class and message."""
    return {ERROR_CLASS: type(error).__name__, ERROR_MESSAGE: str(error)}


def params(record: Record) -> dict[str, str]:
    """Return the settings and the numbers of images."""
    return record.settings | {param: str(getattr(record, field)) for field, param in COUNTS.items()}


def planned(job: Job) -> dict[str, str]:
    """Return the settings of a job that are known even if it failed before it read anything."""
    params = without_seed(job.model.params, job.seed)
    values = job.protocol() | {f"model.{name}": value for name, value in params.items()}
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
    """Write what a finished job must leave behind: scores and settings."""
    _write_scores(folder / SCORES, record.scores)
    text = yaml.dump(asdict(job), Dumper=_DUMPER, allow_unicode=True)
    (folder / JOB).write_text(text, encoding="utf-8")


def figures(record: Record) -> dict[str, str]:
    """Draw the figures of a finished job, by file name; a fault costs the figure only."""
    from harness.figures import draw_curves, draw_mistakes

    drawn = {"curves.svg": _drawn(lambda: draw_curves(record), "curves")}
    if record.mistakes:
        drawn["mistakes.svg"] = _drawn(lambda: draw_mistakes(record.mistakes), "mistakes")
    return {name: text for name, text in drawn.items() if text is not None}


def _drawn(draw: Callable[[], str], name: str) -> str | None:
    try:
        return draw()
    except Exception:
        log.warning("the figure %s could not be drawn", name, exc_info=True)
        return None


def write_traceback(folder: Path, error: BaseException) -> None:
    """Write the artifact of a failed job."""
    text = "".join(traceback.format_exception(error))
    (folder / "traceback.txt").write_text(text, encoding="utf-8")


def _write_scores(path: Path, scores: tuple[ImageScore, ...]) -> None:
    # repr() of a float64 reads back to the same bits.
    rows = [(s.image, s.defect_type, int(s.anomalous), repr(s.score)) for s in scores]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([ImageScore._fields, *rows])
