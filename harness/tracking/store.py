"""Where runs are kept: the store's address, its client and its experiments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by mlflow when it is imported: a benchmark on somebody's data reports to nobody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

_SQLITE = "sqlite:///"


def store_uri(uri: str | None = None) -> str:
    """Return the tracking URI: the given one, else the SQLite store of the working folder.

    The path in it is absolute, so that a run knows its store from every folder.

    Examples
    --------
    >>> store_uri("http://127.0.0.1:5000")
    'http://127.0.0.1:5000'
    """
    return uri or f"{_SQLITE}{Path('runs').resolve() / 'mlflow.db'}"


def connect(uri: str) -> MlflowClient:
    """Return a client of the store; the folder of an SQLite store is made if need be."""
    from mlflow import MlflowClient

    if uri.startswith(_SQLITE):
        _sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: MlflowClient, uri: str, *, name: str) -> str:
    """Return the id of the experiment of that name, which is made if it does not exist."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(uri)))
        except MlflowException:
            # Another process made it in the meantime; any other fault shows below.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE))


def _artifacts(uri: str) -> str | None:
    """Return where artifacts go: beside an SQLite file, else where the server puts them."""
    if not uri.startswith(_SQLITE):
        return None
    return (_sqlite_file(uri).parent / "artifacts").resolve().as_uri()
