"""Read runs back as records."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dfkde.registry import TrustError, check_trusted
from harness.config import BackboneConfig, DatasetConfig, FeaturesConfig, Job, ModelConfig
from harness.record import SCHEMA_VERSION, ImageScore, Record, StoredRun, finite
from harness.sweep.outcome import one_line
from harness.system.files import read_regular
from harness.system.terminal import from_cell, shown
from harness.tracking.contents import (
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
from harness.tracking.store import (
    WAIT,
    artifacts_of,
    connect_to_read,
    ended_runs,
    readable,
    reading,
    sqlite_file,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, RecursionError, OSError),
    *(yaml.YAMLError, csv.Error),
)
_LONGEST = 40
_MANY = 100
"""Runs that are counted: more take time to read."""

log = logging.getLogger(__name__)


def read_runs(uri: str | None = None) -> list[StoredRun]:
    """Return every finished or failed run of a store, without the scores of single images.

    Parameters
    ----------
    uri : str, optional
        The tracking URI; by default the SQLite store of the working folder.

    Returns
    -------
    list of StoredRun
        Newest first; `read_scores` gives the scores of one of them. Runs of another schema are
        left out, for their numbers may mean something else: see `outdated`. So is, with a warning,
        a run that only says that it is of this schema.

    Raises
    ------
    StoreError
        If the store is not there or cannot be read.
    """
    uri = store_uri(uri)
    with reading(uri) as client:
        file = sqlite_file(uri)
        found = _search(client) if file is None else ended_runs(file, wait=WAIT)
        runs = map(_readable, filter(_of_this_schema, found))
        return [run for run in runs if run is not None]


def _readable(run: Any) -> StoredRun | None:
    try:
        return stored(run)
    except ValueError as error:
        log.warning("left out: %s", shown(str(error)))
        return None


def _of_this_schema(run: Any) -> bool:
    return run.data.tags.get(SCHEMA) == str(SCHEMA_VERSION)


def outdated(uri: str | None = None) -> str | None:
    """Say in one line which finished runs of another schema a store holds, or None.

    Parameters
    ----------
    uri : str, optional
        The tracking URI; by default the SQLite store of the working folder.

    Raises
    ------
    StoreError
        If the store is not there or cannot be read.
    """
    uri = store_uri(uri)
    with reading(uri) as client:
        found = client.search_runs(
            _experiments(client),
            f"attributes.status = 'FINISHED' and tags.{SCHEMA} != '{SCHEMA_VERSION}'",
            max_results=_MANY + 1,
        )
    if not found:
        return None
    number = f"more than {_MANY}" if len(found) > _MANY else str(len(found))
    schemas = ", ".join(sorted({run.data.tags[SCHEMA] for run in found}))
    return (
        f"{readable(uri)} holds {number} runs of schema {schemas}; this version reads schema"
        f" {SCHEMA_VERSION}, whose identities differ: their jobs run again, and no table shows them"
    )


def read_scores(run_id: str, uri: str | None = None) -> tuple[ImageScore, ...]:
    """Return a run's scores of single images, in the order of the test split.

    Parameters
    ----------
    run_id : str
        A finished run.
    uri : str, optional
        The tracking URI; by default the SQLite store of the working folder.

    Raises
    ------
    StoreError
        If the store is not there or cannot be read.
    ValueError
        In one line, if there is no such run, or it has no scores, or they cannot be read.
    """
    from mlflow.exceptions import MlflowException

    try:
        text = _artifact(run_id, SCORES, store_uri(uri)).decode(errors="surrogatepass")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(header) != ImageScore._fields:
            raise ValueError(f"its columns must be {', '.join(ImageScore._fields)}")
        if not rows:
            raise ValueError("it holds none")
        return tuple(map(_image_score, rows))
    except (*_UNREADABLE, MlflowException) as error:
        raise ValueError(f"{SCORES} of run {run_id} cannot be read: {one_line(error)}") from error


def read_record(run: StoredRun, uri: str | None = None) -> Record:
    """Return the record that a finished run has kept, whatever its values are now.

    Parameters
    ----------
    run : StoredRun
        A finished run, as `read_runs` gives it.
    uri : str, optional
        The tracking URI; by default the SQLite store of the working folder.

    Returns
    -------
    Record
        With the scores of single images, and with the metrics as they were logged first: a later
        value takes their place, but not in their history.

    Raises
    ------
    StoreError, ValueError
        As `read_scores`.
    """
    scores, metrics = read_scores(run.run_id, uri), dict(run.record.metrics)
    with reading(store_uri(uri)) as client:
        for name in metrics:
            logged = client.get_metric_history(run.run_id, name)
            metrics[name] = min(logged, key=lambda metric: metric.timestamp).value
    return replace(run.record, scores=scores, metrics=metrics)


def _artifact(run_id: str, name: str, uri: str) -> bytes:
    info = connect_to_read(uri).get_run(run_id).info
    return read_regular(Path(artifacts_of(uri, info).download_artifacts(name)))


def read_job(run_id: str, uri: str | None = None, *, trusted: Sequence[str] = ()) -> Job:
    """Return the job of a finished run, as its configuration was resolved.

    Whoever can write to the store can name any code in it, and who fits the job runs that code.

    Parameters
    ----------
    run_id : str
        A finished run.
    uri : str, optional
        The tracking URI; by default the SQLite store of the working folder.
    trusted : sequence of str
        What the job may name as `model.factory` or `backbone.factory` beside this project's own
        models and backbones, in the very words of the job.

    Raises
    ------
    TrustError
        If it names another factory; nothing has been imported.
    ValueError
        If there is no such run, or it holds no job, or one with keys that are not known here.
    StoreError
        If the store is not there or cannot be read.
    """
    from mlflow.exceptions import MlflowException

    source = f"{JOB} of run {run_id}"
    try:
        job = _job(yaml.safe_load(_artifact(run_id, JOB, store_uri(uri)).decode()))
        factories = [job.model.factory, job.backbone.factory]
        check_trusted(factories, trusted, source=source, option="--trusted ")
    except TrustError:
        raise
    except (*_UNREADABLE, MlflowException) as error:
        raise ValueError(f"{source} cannot be read: {one_line(error)}") from error
    return job


def _job(values: Any) -> Job:
    groups: dict[str, type[Any]] = {
        "dataset": DatasetConfig,
        "backbone": BackboneConfig,
        "model": ModelConfig,
        "features": FeaturesConfig,
    }
    _check_keys(Job, values, name="the job")
    for name, kind in groups.items():
        _check_keys(kind, values[name], name=name)
    return Job(**values | {name: kind(**values[name]) for name, kind in groups.items()})


def _check_keys(kind: type[Any], values: Any, *, name: str) -> None:
    known = [field.name for field in fields(kind)]
    got = [key for key in values if key not in known] if isinstance(values, dict) else values
    if got != []:
        raise ValueError(f"{name} must have keys of {', '.join(known)}, got {got!r}")


def stored(run: Any) -> StoredRun:
    """Return an MLflow run as the report reads it.

    Raises
    ------
    ValueError
        If it was not written by this project: in one line the run, and its tag or parameter.
    """
    return StoredRun(
        run_id=run.info.run_id,
        status=run.info.status.lower(),
        identity=run.data.tags.get(IDENTITY, ""),
        record=_record(run),
        error=_error(run),
        started=_parsed(run, "start time", str(run.info.start_time), _moment),
        commit=_tag(run, "commit"),
        dirty=_tag(run, "dirty") == "true",
        versions=_tag(run, "versions", _texts),
        machine=_tag(run, "machine", _texts),
    )


def _tag(run: Any, name: str, parse: Callable[[str], Any] = str) -> Any:
    return _parsed(run, f"tag {name}", run.data.tags.get(name), parse)


def _parsed(run: Any, what: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    if text is None:
        raise ValueError(f"run {run.info.run_id} has no {what}")
    try:
        return parse(text)
    except (ValueError, OverflowError, RecursionError, OSError) as error:
        raise ValueError(
            f"run {run.info.run_id} has a {what} that cannot be read ({one_line(error)})"
        ) from error


def _moment(milliseconds: str) -> str:
    started = datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    return started.isoformat(timespec="seconds").replace("+00:00", "Z")


def _texts(text: str) -> dict[str, str]:
    values = json.loads(text)
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ValueError(f"must be a JSON object of texts, got {text[:_LONGEST]!r}")
    return values


def _error(run: Any) -> str | None:
    if ERROR_CLASS not in run.data.tags:
        return None
    return " ".join(f"{_tag(run, ERROR_CLASS)}: {_tag(run, ERROR_MESSAGE)}".split())


def _record(run: Any) -> Record:
    tags, params, metrics = run.data.tags, dict(run.data.params), run.data.metrics
    n_train, n_normal, n_anomalous = (
        _parsed(run, f"parameter {name}", params.pop(name, "0"), int) for name in COUNTS.values()
    )
    return Record(
        dataset=_tag(run, "dataset"),
        category=_tag(run, "category"),
        model=_tag(run, "model"),
        backbone=_tag(run, "backbone"),
        model_factory=_tag(run, "model_factory"),
        backbone_factory=_tag(run, "backbone_factory"),
        seed=_tag(run, "seed", int),
        settings=dict(sorted(params.items())),
        weights_digest=tags.get("weights_digest", ""),
        data_fingerprint=tags.get("data_fingerprint", ""),
        official=tags.get("official") == "true",
        n_train=n_train,
        n_test_normal=n_normal,
        n_test_anomalous=n_anomalous,
        metrics={name: value for name, value in metrics.items() if not name.startswith(SECONDS)},
        undefined=_prefixed(tags, UNDEFINED),
        durations=_prefixed(metrics, SECONDS),
    )


def _prefixed(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _image_score(row: list[str]) -> ImageScore:
    image, defect_type, anomalous, score = map(from_cell, row)
    return ImageScore(image, defect_type, {"0": False, "1": True}[anomalous], finite(score))


def _experiments(client: MlflowClient) -> list[str]:
    return [e.experiment_id for e in client.search_experiments(max_results=_PAGE)]


def _search(client: MlflowClient) -> Iterator[Any]:
    experiments, token = _experiments(client), None
    while True:
        page = client.search_runs(
            experiments,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from (run for run in page if run.info.status in ("FINISHED", "FAILED"))
        token = page.token
        if not token:
            return
