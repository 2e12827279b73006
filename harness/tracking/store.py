"""Where runs are kept: the store's address, its client, experiments and their view in the UI."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from harness.metrics.registry import HEADLINE
from harness.system.locks import hold
from harness.system.secrets import VARIABLE, check_address, with_secrets
from harness.system.signals import ending
from harness.system.terminal import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

# Read by mlflow when it is imported, or at each request. A server that does not answer must not
# hold up the sweep: the result goes to the outbox.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one for each small file
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
# What it logs with a traceback it raises too.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: not record.exc_info)

# While the process is ending, a user waits for it.
_WHILE_ENDING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
_SQLITE = "sqlite:///"
_WAIT = 60  # seconds for another process that writes to an SQLite store
_PATIENCE = 300.0  # seconds for other processes that make the store or open it
PAGE = 1000  # experiments or runs that MLflow is asked for at once

_KEY = "tables"
_NAME = "Metrics of the tables"
TAG = f"mlflow.sharedViewState.{_KEY}"
"""The experiment's tag under which the UI finds the view."""

# The UI's own columns, named as it names them: check box, name and time come first in any case.
_FIRST = {"1": 70, "attributes.`Run Name`": 120, "runDateAndNestInfo": 135}
_SHOWN = {"display": True, "deleted": False, "isGenerated": False, "isReordered": True}
_CHART = {"metricSectionId": _KEY, "runsCountToCompare": 20} | _SHOWN


class StoreError(RuntimeError):
    """The tracking store cannot be reached, or is not there."""


def store_uri(uri: str | None = None) -> str:
    """Return the tracking URI: the given one, else the SQLite store of the working folder.

    A path in it is absolute. An empty address raises `StoreError`, and so does a password other
    than that of `MLFLOW_TRACKING_URI`: see `harness.system.secrets`.
    """
    if uri is None:
        return _sqlite_uri(Path("runs") / "mlflow.db")
    if not uri.strip():
        raise StoreError(f"tracking.uri must be an address, got {uri!r}: is {VARIABLE} empty?")
    try:
        address = check_address(uri)
    except ValueError as error:
        raise StoreError(str(error)) from None
    file = sqlite_file(address)
    return address if file is None else _sqlite_uri(file)


def _sqlite_uri(file: Path) -> str:
    """Return the address of a file, in whose path SQLAlchemy would read `%` and `?` otherwise."""
    path = str(file.resolve())
    return _SQLITE + "".join(quote(c) if c in "%?#" else c for c in path)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for a server."""
    return Path(unquote(uri.removeprefix(_SQLITE))) if uri.startswith(_SQLITE) else None


def import_mlflow() -> None:
    """Import now what `connect` would import, which takes seconds."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@cache
def connect(uri: str) -> MlflowClient:
    """Return a client of the store; an SQLite store is made if need be."""
    from mlflow import MlflowClient

    path = sqlite_file(uri)
    if path is None:
        if not uri.startswith("http"):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 2  # of ten, which take two minutes where a database is down
        return MlflowClient(tracking_uri=with_secrets(uri))
    path.parent.mkdir(parents=True, exist_ok=True)
    # MLflow itself would let several processes make the store at once.
    lock = path.with_name(f"{path.name}.lock")
    with hold(lock, patience=_PATIENCE) as held:
        if not held:
            raise StoreError(f"{lock} must be free, got another process that holds it")
        if not path.exists():
            _make(path, artifacts=_artifacts(uri))
        client = MlflowClient(tracking_uri=uri)
        # One process can write while others read: a setting that the file itself keeps.
        with closing(sqlite3.connect(path, timeout=_WAIT)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return client


@contextmanager
def errors_of(uri: str) -> Iterator[None]:
    """Raise whatever fails in this block as a `StoreError` in one line."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"tracking.uri={uri}: {one_line(error)}") from error


@contextmanager
def reading(uri: str) -> Iterator[MlflowClient]:
    """Give a client of an existing store in this block, which raises as `errors_of`."""
    with errors_of(uri):
        path = sqlite_file(uri)
        if path is not None and not path.exists():
            rule = "`python -m harness.run` makes one in the folder `runs`"
            raise StoreError(f"tracking.uri must name a store that exists, got {uri}; {rule}")
        if path is not None:
            # MLflow would make a store of another file, or try to for minutes.
            read_only = f"{path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(read_only, uri=True)) as connection:
                connection.execute("SELECT version_num FROM alembic_version").fetchall()
        yield connect(uri)


def connect_to_read(uri: str) -> MlflowClient:
    """Return a client of an existing store that answers; else raise `StoreError`."""
    with reading(uri) as client:
        client.search_experiments(max_results=1)
        return client


def experiment_ids(client: MlflowClient) -> list[str]:
    """Return the ids of all experiments."""
    return [e.experiment_id for e in client.search_experiments(max_results=PAGE)]


@cache
def experiment_id(uri: str, *, name: str) -> str:
    """Return the id of the experiment of that name, which is made if it does not exist."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, _artifacts(uri), tags={TAG: view()}))
        except MlflowException:
            # Another process made it in the meantime; any other fault is still one.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":  # in the UI; it would take no run
        client.restore_experiment(found.experiment_id)
    if found.tags.get(TAG) != view():
        client.set_experiment_tag(found.experiment_id, TAG, view())
    return str(found.experiment_id)


@contextmanager
def hurried() -> Iterator[None]:
    """Wait for a server for seconds only, in this block, if the process is ending."""
    before = {name: os.environ[name] for name in _WHILE_ENDING}
    os.environ.update(_WHILE_ENDING if ending() else {})
    try:
        yield
    finally:
        os.environ.update(before)


def _make(path: Path, *, artifacts: str | None) -> None:
    """Make a store under another name: MLflow's many steps could not go on after a crash."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f".{path.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    part = folder / path.name
    SqlAlchemyStore(_sqlite_uri(part), artifacts).engine.dispose()
    part.replace(path)
    shutil.rmtree(folder)


def artifacts_of(uri: str, run: RunInfo) -> ArtifactRepository:
    """Return where a run's artifacts are; those of an SQLite store move with its folder."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # MLflow keeps the address that it had when the run was made.
    address, beside = str(run.artifact_uri), _artifacts(uri)
    own = f"/{run.run_id}/artifacts"
    if beside and address.startswith(("file:", "/")) and address.endswith(f"/artifacts{own}"):
        address = beside + own
    return get_artifact_repository(address, tracking_uri=with_secrets(uri))


def _artifacts(uri: str) -> str | None:
    """Return where artifacts go: beside an SQLite file, else where the server puts them."""
    path = sqlite_file(uri)
    return None if path is None else (path.parent / "artifacts").resolve().as_uri()


def ended_runs(client: MlflowClient, file: Path | None) -> Iterator[Any]:
    """Yield the finished and the failed runs, the newest first, as MLflow's client gives them."""
    if file is not None:
        yield from _rows(file)
        return
    experiments, token, newest = experiment_ids(client), None, ["attributes.start_time DESC"]
    while token != "":
        page = client.search_runs(experiments, max_results=PAGE, order_by=newest, page_token=token)
        yield from (run for run in page if run.info.status in ("FINISHED", "FAILED"))
        token = page.token or ""


_RUNS = """
    SELECT run_uuid, status, start_time FROM runs JOIN experiments USING (experiment_id)
    WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
    AND status IN ('FINISHED', 'FAILED') ORDER BY start_time DESC, run_uuid
"""
_VALUES = {
    "tags": "SELECT run_uuid, key, value FROM tags",
    "params": "SELECT run_uuid, key, value FROM params",
    "metrics": "SELECT run_uuid, key, iif(is_nan, 'nan', value) FROM latest_metrics",
}


def _rows(path: Path) -> Iterator[SimpleNamespace]:
    """Read MLflow's tables at once: its client makes an object of every value, a ms for each run.

    Of an `mlflow.entities.Run`, each has what a run's record is read from.
    """
    with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as store:
        store.execute("BEGIN")  # all tables as they are at one moment
        runs = store.execute(_RUNS).fetchall()
        values: dict[str, Any] = {run_id: {kind: {} for kind in _VALUES} for run_id, *_ in runs}
        for kind, query in _VALUES.items():
            for run_id, key, value in store.execute(query):
                if run_id in values:
                    values[run_id][kind][key] = float(value) if kind == "metrics" else value
    for run_id, status, start_time in runs:
        info = SimpleNamespace(run_id=run_id, status=status, start_time=start_time)
        yield SimpleNamespace(info=info, data=SimpleNamespace(**values[run_id]))


def view() -> str:
    """Return the view as the UI reads it: the cell's names, four metrics, sorted by category.

    Since MLflow 3.15 a view is an object of `name`, `createdAt` (milliseconds) and `state`, a text;
    the menu *Views* lists those alone. Before, it was the state itself, of which the UI takes the
    keys that it knows. This is both, in fewer than the 5,000 characters that a tag may then have.
    """
    tags = {"category": 90, "model": 115, "backbone": 130, "seed": 58}
    widths = {f"tags.`{name}`": width for name, width in tags.items()}
    widths |= {f"metrics.`{name}`": 105 for name in HEADLINE}
    widths |= {"tags.`swept`": 150, "tags.`official`": 75}
    widths |= {"attributes.`Dataset`": 250, "tags.`job`": 90}
    state = {
        "selectedColumns": list(widths),
        "columnOrder": [*_FIRST, *widths],
        "columnWidths": _FIRST | widths,
        "orderByKey": "tags.`category`",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunSections": [{"uuid": _KEY, "name": _NAME} | _SHOWN],
        "compareRunCharts": [
            {"type": "BAR", "metricKey": name, "dataAccessKey": name, "uuid": name} | _CHART
            for name in HEADLINE
        ],
        "isAccordionReordered": True,
    }
    return _text({"name": _NAME, "createdAt": 0, "state": _text(state)} | state)


def link(server: str, experiment: str) -> str:
    """Return where the UI shows an experiment in that view."""
    # Without the first, the UI's menu is that for language models.
    choice = f"workflowType=machine_learning&viewStateShareKey={_KEY}"
    return f"{server}/#/experiments/{experiment}/runs?{choice}"


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
