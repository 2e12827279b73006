"""What of a job and its record goes into MLflow, and what it is called there."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import yaml

from harness.config import OF_THE_SWEEP, Job, without_seed
from harness.provenance import CHANGED, code_changed, commit, machine, versions
from harness.record import SCHEMA_VERSION, ImageScore, Record
from harness.system.secrets import masked
from harness.system.terminal import csv_line, to_cell

SCORES = "scores.csv"
JOB = "job.yaml"
SECONDS = "seconds."
UNDEFINED = "undefined."
ERROR_CLASS = "error.class"
ERROR_MESSAGE = "error.message"
IDENTITY = "identity"
CODE = "code"
SCHEMA = "schema"
SWEPT = "swept"  # the settings that set a run apart from others of its sweep
AVERAGE = "average"  # marks a run of averages: a digest of the ids of the runs that it averages
RUNS = "runs"  # which runs those are
COUNTS = {
    "n_train": "images.train",
    "n_test_normal": "images.test_normal",
    "n_test_anomalous": "images.test_anomalous",
    "n_left_out": "images.left_out",
    "n_duplicates": "images.duplicates",
}
HOST = "process.host"
PID = "process.pid"
LOCKS = "process.locks"  # the folder in which that process holds the job's lock
ENTRY = "outbox.entry"  # the entry of an outbox that a run was created from

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

    identity: str  # see `harness.experiment`
    official: bool  # whether its data are the published dataset
    code: str  # see `harness.provenance`


def run_name(job: Job) -> str:
    """Return the name of a job's run, cut where a store would cut it."""
    return _text(str(job))[:_LONGEST_NAME]


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
    return _storable(tags)


def average_tags(job: Job, runs: Sequence[Any]) -> dict[str, str]:
    """Return the tags of averages over runs: what these share, and which ones they are.

    No tag by which a reader recognizes the run of a job is among them.
    """
    shared = dict(set.intersection(*(set(run.data.tags.items()) for run in runs)))
    names = {*job_tags(job, None), "official", CODE, "weights_digest"} - {SCHEMA}
    tags = {name: value for name, value in shared.items() if name in names}
    tags |= {RUNS: ",".join(run.info.run_id for run in runs), "category": job.category}
    return _storable(tags | ({SWEPT: job.swept} if job.swept else {}))


def changed_tags(job: Job) -> dict[str, str]:
    """Return the tag of a job whose code was edited meanwhile: which code ran is not known."""
    if not code_changed(job):
        return {}
    log.warning("%s: the code has been edited since this process read it", job)
    return {CODE: CHANGED}


def of_record(job: Job, record: Record) -> dict[str, Any]:
    """Return what a run of a finished job holds, by the fields of an outbox's entry."""
    digests = {name: getattr(record, name) for name in ("weights_digest", "data_fingerprint")}
    numbers = {field: n for field in COUNTS if (n := getattr(record, field))}  # no count of 0
    counts = {COUNTS[name]: str(number) for name, number in numbers.items()}
    seconds = {SECONDS + stage: value for stage, value in record.durations.items()}
    source = {  # the images, as MLflow describes a dataset
        "name": f"{record.dataset}/{record.category}",
        "digest": record.data_fingerprint[:_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": f"{job.dataset.title}, {record.category}"}),
        "profile": json.dumps(numbers),
    }
    return {
        "tags": digests | {UNDEFINED + name: why for name, why in record.undefined.items()},
        "params": _storable(record.settings | counts),
        "metrics": record.metrics | seconds,
        "source": source,
    }


def of_error(job: Job, error: BaseException) -> dict[str, Any]:
    """Return what a run of a failed job holds: the error, and the settings known before it."""
    params = without_seed(job.model.params, job.seed)
    settings = job.protocol() | {f"model.{name}": value for name, value in params.items()}
    return {
        "tags": _storable({ERROR_CLASS: type(error).__name__, ERROR_MESSAGE: str(error)}),
        "params": _storable({name: str(value) for name, value in settings.items()}),
    }


def measured(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a run without the seconds of its stages."""
    return {name: value for name, value in metrics.items() if not name.startswith(SECONDS)}


def record_files(job: Job, record: Record) -> dict[str, bytes]:
    """Return the artifacts of a finished job; a figure that cannot be drawn is left out."""
    from harness.charts import draw_curves, draw_mistakes

    # repr() of a float64 reads back to the same bits.
    rows = [
        (to_cell(s.image), to_cell(s.defect_type), str(int(s.anomalous)), repr(s.score))
        for s in record.scores
    ]
    scores = "".join(map(csv_line, [ImageScore._fields, *rows]))
    # What depends on the other jobs of a sweep is not this one's.
    settings = {name: value for name, value in asdict(job).items() if name not in OF_THE_SWEEP}
    files = {
        SCORES: scores.encode(errors="surrogatepass"),
        JOB: yaml.dump(settings, Dumper=_DUMPER, allow_unicode=True).encode(),
    }
    figures: dict[str, Callable[[], str]] = {}
    if record.scores:
        figures["curves.svg"] = lambda: draw_curves(record)
    if record.mistakes:
        figures["mistakes.svg"] = lambda: draw_mistakes(record.mistakes)
    for name, draw in figures.items():
        try:
            files[name] = draw().encode()
        except Exception:
            log.warning("the figure %s could not be drawn", name, exc_info=True)
    return files


def error_files(error: BaseException) -> dict[str, bytes]:
    """Return the artifact of a failed job."""
    text = masked("".join(traceback.format_exception(error)))
    return {"traceback.txt": text.encode(errors="backslashreplace")}


def _storable(values: dict[str, str]) -> dict[str, str]:
    """Write tags or params so that every store holds them, whatever is in an error or a setting."""
    return {
        _NO_NAME.sub(lambda match: f":{ord(match[0]):x}:", name)[:_LONGEST_NAME]: _text(value)
        for name, value in values.items()
    }


def _text(text: str) -> str:
    """Escape what no database holds, and say where a text was cut."""
    text = masked(text).encode(errors="backslashreplace").decode().replace("\0", r"\x00")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"
