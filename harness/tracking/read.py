"""Read runs back as records.

Each `uri` is a tracking URI, by default that of the SQLite store of the working folder. Every
function raises `StoreError` if the store is not there or cannot be read.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from dfkde.registry import TrustError, check_trusted
from harness.config import Job
from harness.record import SCHEMA_VERSION, ImageScore, Record, StoredRun, finite
from harness.system.files import read_regular
from harness.system.terminal import from_cell, one_line, shown
from harness.tracking import contents, store

_FAULTS = (ValueError, TypeError, LookupError, RecursionError, OSError, yaml.YAMLError, csv.Error)
_NAMES = ("dataset", "category", "model", "backbone", "model_factory", "backbone_factory")
_MANY = 100  # runs that are counted: more take time to read

log = logging.getLogger(__name__)


def read_runs(uri: str | None = None) -> list[StoredRun]:
    """Return every finished or failed run, the newest first, without scores of single images.

    Runs of another schema are left out, for their numbers may mean something else: see `outdated`.
    So is, with a warning, a run that has the tag of this schema but not what belongs to it.
    """
    uri, runs = store.store_uri(uri), []
    with store.reading(uri) as client:
        for run in store.ended_runs(client, store.sqlite_file(uri)):
            if run.data.tags.get(contents.SCHEMA) == str(SCHEMA_VERSION):
                try:
                    runs.append(stored(run))
                except ValueError as error:
                    log.warning("left out: %s", shown(str(error)))
    return runs


def outdated(uri: str | None = None) -> str | None:
    """Say in one line which finished runs of another schema a store holds, or return None."""
    uri = store.store_uri(uri)
    with store.reading(uri) as client:
        found = client.search_runs(
            store.experiment_ids(client),
            f"attributes.status = 'FINISHED' and tags.{contents.SCHEMA} != '{SCHEMA_VERSION}'",
            max_results=_MANY + 1,
        )
    if not found:
        return None
    number = f"more than {_MANY}" if len(found) > _MANY else str(len(found))
    schemas = ", ".join(sorted({run.data.tags[contents.SCHEMA] for run in found}))
    return (
        f"{uri} holds {number} runs of schema {schemas}; this version reads schema"
        f" {SCHEMA_VERSION}, whose identities differ: their jobs run again, and no table shows them"
    )


def read_scores(run_id: str, uri: str | None = None) -> tuple[ImageScore, ...]:
    """Return a finished run's scores of single images, in the order of the test split.

    Raises `ValueError` in one line, if there is no such run, or its scores cannot be read.
    """
    with _artifact(run_id, contents.SCORES, uri) as data:
        text = data.decode(errors="surrogatepass")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(header) != ImageScore._fields:
            raise ValueError(f"its columns must be {', '.join(ImageScore._fields)}")
        kinds, cells = {"0": False, "1": True}, (map(from_cell, row) for row in rows)
        return tuple(ImageScore(i, d, kinds[a], finite(score)) for i, d, a, score in cells)


def read_record(run: StoredRun, uri: str | None = None) -> Record:
    """Return the record of a finished run as it was written, with its scores of single images.

    A metric that was logged again later has its first value. Raises as `read_scores`.
    """
    scores, metrics = read_scores(run.run_id, uri), dict(run.record.metrics)
    with store.reading(store.store_uri(uri)) as client:
        for name in metrics:
            logged = client.get_metric_history(run.run_id, name)
            metrics[name] = min(logged, key=lambda metric: metric.timestamp).value
    return replace(run.record, scores=scores, metrics=metrics)


def read_job(run_id: str, uri: str | None = None, *, trusted: Sequence[str] = ()) -> Job:
    """Return the job of a finished run, as its configuration was resolved.

    Whoever can write to the store can name any code in it, and fitting the job runs that code: so
    `model.factory` and `backbone.factory` must be this project's own or one of `trusted`, written
    as in the job; another one raises `TrustError`, and nothing has been imported. `ValueError` in
    one line means that there is no such run, or it holds no job of this version.
    """
    with _artifact(run_id, contents.JOB, uri) as data:
        values, kinds = yaml.safe_load(data.decode()), get_type_hints(Job)
        groups: dict[str, Any] = {name: kinds[name] for name in kinds if is_dataclass(kinds[name])}
        job = Job(**values | {name: kind(**values[name]) for name, kind in groups.items()})
        factories = [job.model.factory, job.backbone.factory]
        source = f"{contents.JOB} of run {run_id}"
        check_trusted(factories, trusted, source=source, option="--trusted ")
        return job


@contextmanager
def _artifact(run_id: str, name: str, uri: str | None) -> Iterator[bytes]:
    """Give an artifact's content; whatever is wrong with it is a `ValueError` in one line."""
    from mlflow.exceptions import MlflowException

    uri = store.store_uri(uri)
    try:
        info = store.connect_to_read(uri).get_run(run_id).info
        yield read_regular(Path(store.artifacts_of(uri, info).download_artifacts(name)))
    except TrustError:
        raise
    except (*_FAULTS, MlflowException) as error:
        what = f"{name} of run {run_id}"
        raise ValueError(f"{what} cannot be read: {one_line(error)}") from error


def stored(run: Any) -> StoredRun:
    """Return an MLflow run as the report reads it; raises `ValueError` in one line."""
    tags = run.data.tags
    error = None
    if contents.ERROR_CLASS in tags:
        parts = _tag(run, contents.ERROR_CLASS), _tag(run, contents.ERROR_MESSAGE)
        error = " ".join(": ".join(parts).split())
    return StoredRun(
        run_id=run.info.run_id,
        status=run.info.status.lower(),
        identity=tags.get(contents.IDENTITY, ""),
        record=_record(run),
        error=error,
        started=_parsed(run, "start time", str(run.info.start_time), _time),
        commit=_tag(run, "commit"),
        dirty=_tag(run, "dirty") == "true",
        versions=_tag(run, "versions", _texts),
        machine=_tag(run, "machine", _texts),
    )


def _record(run: Any) -> Record:
    tags, params, metrics = run.data.tags, dict(run.data.params), run.data.metrics
    counts = {
        field: _parsed(run, f"parameter {name}", params.pop(name, "0"), int)
        for field, name in contents.COUNTS.items()
    }
    return Record(
        **{name: _tag(run, name) for name in _NAMES},
        seed=_tag(run, "seed", int),
        settings=dict(sorted(params.items())),
        weights_digest=tags.get("weights_digest", ""),
        data_fingerprint=tags.get("data_fingerprint", ""),
        official=tags.get("official") == "true",
        metrics=contents.measured(metrics),
        undefined=_below(tags, contents.UNDEFINED),
        durations=_below(metrics, contents.SECONDS),
        **counts,
    )


def _below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _tag(run: Any, name: str, parse: Callable[[str], Any] = str) -> Any:
    return _parsed(run, f"tag {name}", run.data.tags.get(name), parse)


def _parsed(run: Any, what: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    if text is None:
        raise ValueError(f"run {run.info.run_id} has no {what}")
    try:
        return parse(text)
    except (ValueError, OverflowError, RecursionError, OSError) as error:
        what = f"run {run.info.run_id} has a {what} that cannot be read"
        raise ValueError(f"{what} ({one_line(error)})") from error


def _time(milliseconds: str) -> str:
    return f"{datetime.fromtimestamp(int(milliseconds) // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _texts(text: str) -> dict[str, str]:
    values = json.loads(text)
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ValueError(f"must be a JSON object of texts, got {text[:40]!r}")
    return values
