"""What of a job and its record goes into MLflow, and what it is called there."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.code import CHANGED, code_changed
from harness.config import Job
from harness.models import without_seed
from harness.provenance import commit, machine, versions
from harness.record import SCHEMA_VERSION, ImageScore, Record
from harness.secrets import masked
from harness.show import csv_line, to_cell

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

log = logging.getLogger(__name__)

# In C where PyYAML was built with it: a job is written in a fifth of the time.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# MLflow holds no longer digest of a dataset.
_DIGEST = 36
# Characters of a tag or a param: of a longer one, MLflow prints a part, and stores a part.
_LONGEST = 5900
_LONGEST_NAME = 250
# All that MLflow takes in a param's name, but for slashes, with which it can also be a wrong path.
_NO_NAME = re.compile(r"[^\w .:-]", re.ASCII)


class JobKey(NamedTuple):
    """What must be equal, beside a job's names, for a run of it to make another one needless."""

    identity: str
    """See `harness.identity`."""
    official: bool
    """Whether its data are the published dataset."""
    code: str
    """See `harness.code`."""


def run_name(job: Job) -> str:
    """Return the name of a job's run, as far as every store holds it."""
    return _storable(str(job))[:_LONGEST_NAME]


def job_tags(job: Job, key: JobKey | None) -> dict[str, str]:
    """Return what is known of a job before it runs; a job that fails early has no key."""
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
    if job.swept:
        tags[SWEPT] = job.swept
    if key is not None:
        tags |= {IDENTITY: key.identity, "job": key.identity[:8], CODE: key.code}
        tags["official"] = str(key.official).lower()
    return _all_storable(tags)


def average_tags(job: Job, runs: Sequence[Any]) -> dict[str, str]:
    """Return the tags of averages over runs: what these share, and which ones they are.

    No tag by which a reader recognizes the run of a job is among them.
    """
    first, *others = (run.data.tags for run in runs)
    names = [*job_tags(job, None), "official", CODE, "weights_digest"]
    shared = {
        name: first[name]
        for name in names
        if name in first and name != SCHEMA and all(o.get(name) == first[name] for o in others)
    }
    ids = {RUNS: ",".join(run.info.run_id for run in runs), "category": job.category}
    return _all_storable(shared | ids | ({SWEPT: job.swept} if job.swept else {}))


def changed_tags(job: Job) -> dict[str, str]:
    """Return the tag of a job whose code was edited meanwhile: which code ran is not known."""
    if not code_changed(job):
        return {}
    log.warning("%s: the code has been edited since this process read it", job)
    return {CODE: CHANGED}


def record_tags(record: Record) -> dict[str, str]:
    """Return a record's digests and why any metric is undefined."""
    return {
        "weights_digest": record.weights_digest,
        "data_fingerprint": record.data_fingerprint,
    } | {UNDEFINED + name: reason for name, reason in record.undefined.items()}


def error_tags(error: BaseException) -> dict[str, str]:
    """Return an error's class and message, as far as a store holds it; the traceback has all."""
    return _all_storable({ERROR_CLASS: type(error).__name__, ERROR_MESSAGE: str(error)})


def params(record: Record) -> dict[str, str]:
    """Return the settings and the numbers of images."""
    counts = {param: str(getattr(record, field)) for field, param in COUNTS.items()}
    return _all_storable(record.settings | counts)


def planned_params(job: Job) -> dict[str, str]:
    """Return the settings of a job that are known even if it failed before it read anything."""
    params = without_seed(job.model.params, job.seed)
    values = job.protocol() | {f"model.{name}": value for name, value in params.items()}
    return _all_storable({name: str(value) for name, value in values.items()})


def metrics(record: Record) -> dict[str, float]:
    """Return the metrics and the seconds of each stage."""
    return record.metrics | {SECONDS + stage: value for stage, value in record.durations.items()}


def measured(metrics: dict[str, float]) -> dict[str, float]:
    """Return what `metrics` returned, without the seconds."""
    return {name: value for name, value in metrics.items() if not name.startswith(SECONDS)}


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
    """Write the artifacts of a finished job: its scores and its settings."""
    # repr() of a float64 reads back to the same bits.
    rows = [
        (to_cell(s.image), to_cell(s.defect_type), str(int(s.anomalous)), repr(s.score))
        for s in record.scores
    ]
    with (folder / SCORES).open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        file.writelines(map(csv_line, [ImageScore._fields, *rows]))
    settings = asdict(job)
    del settings["swept"]  # which depends on the other jobs of the sweep
    text = yaml.dump(settings, Dumper=_DUMPER, allow_unicode=True)
    (folder / JOB).write_text(text, encoding="utf-8")


def figures(record: Record) -> dict[str, str]:
    """Draw the figures of a finished job, by file name; a fault costs the figure only."""
    from harness.charts import draw_curves, draw_mistakes

    figures: dict[str, Callable[[], str]] = {"curves.svg": lambda: draw_curves(record)}
    if record.mistakes:
        figures["mistakes.svg"] = lambda: draw_mistakes(record.mistakes)
    drawn = {}
    for name, draw in figures.items():
        try:
            drawn[name] = draw()
        except Exception:
            log.warning("the figure %s could not be drawn", name, exc_info=True)
    return drawn


def write_traceback(folder: Path, error: BaseException) -> None:
    """Write the artifact of a failed job."""
    text = masked("".join(traceback.format_exception(error)))
    (folder / "traceback.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def _all_storable(values: dict[str, str]) -> dict[str, str]:
    """Write tags or params so that every store holds them, whatever is in an error or a setting."""
    return {
        _NO_NAME.sub(lambda match: f":{ord(match[0]):x}:", name)[:_LONGEST_NAME]: _storable(value)
        for name, value in values.items()
    }


def _storable(text: str) -> str:
    r"""Escape what no database holds, and say where a text was cut.

    Examples
    --------
    >>> print(_storable("a\0b\udcff"), _storable("x" * 9000)[5890:])
    a\x00b\udcff xxxxxxxxxx ... (9000 characters)
    """
    text = masked(text).encode(errors="backslashreplace").decode().replace("\0", r"\x00")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"
