"""From an entry of the outbox to a run in MLflow; safe to break off and to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.locks import hold
from harness.tracking.names import ENTRY, ERROR_CLASS, ERROR_MESSAGE
from harness.tracking.outbox import (
    Entry,
    artifacts,
    check_artifacts,
    read_entry,
    remove,
)
from harness.tracking.store import artifacts_of, connect, experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run, RunInfo


def push(folder: Path, uri: str) -> str | None:
    """Send an entry to the store and take it out of the outbox.

    Parameters
    ----------
    folder : Path
        The entry's folder.
    uri : str
        The tracking URI.

    Returns
    -------
    str or None
        The run's id; None if another process is sending the entry, or has sent it.

    Raises
    ------
    Exception
        Whatever the store raises, or the entry's reading; the entry is still there.
    """
    try:
        with hold(folder / "lock", patience=0) as held:
            if not held:
                return None
            run_id = _send(folder, read_entry(folder), uri=uri)
            remove(folder)
            return run_id
    except FileNotFoundError:
        if folder.exists():
            raise
        return None


def _send(folder: Path, entry: Entry, *, uri: str) -> str:
    check_artifacts(folder, entry)
    info = _opened(folder, entry, uri=uri)
    client = connect(uri)
    # Sent twice, an artifact replaces itself, and a value equal to the one there is no error.
    artifacts_of(uri, info).log_artifacts(str(artifacts(folder)))
    _log_values(client, info.run_id, entry=entry)
    if entry.source:
        client.log_inputs(info.run_id, [_dataset_input(entry.source)])
    client.set_terminated(info.run_id, entry.status, entry.ended)
    return str(info.run_id)


def _opened(folder: Path, entry: Entry, *, uri: str) -> RunInfo:
    """Return what MLflow says of a run that takes the entry's values."""
    run = _existing(folder, entry, uri=uri)
    if run is None:
        return _create(folder, entry, uri=uri)
    client, run_id = connect(uri), run.info.run_id
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run_id)
    if entry.status == "FINISHED":
        # Another process may have taken this one for dead, and closed its run.
        for name in {ERROR_CLASS, ERROR_MESSAGE} & run.data.tags.keys():
            client.delete_tag(run_id, name)
    return run.info


def _existing(folder: Path, entry: Entry, *, uri: str) -> Run | None:
    """Return the run that was opened for the entry, if the store has it."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    if entry.run_id is not None:
        try:
            return client.get_run(entry.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # else the store was made anew
                raise
    # A process may have died after it had created the run.
    experiment = experiment_id(uri, name=entry.experiment)
    found = client.search_runs([experiment], f"tags.`{ENTRY}` = '{folder.name}'", max_results=1)
    return found[0] if found else None


def _create(folder: Path, entry: Entry, *, uri: str) -> RunInfo:
    experiment = experiment_id(uri, name=entry.experiment)
    tags = entry.job_tags | {ENTRY: folder.name}
    return connect(uri).create_run(experiment, entry.started, tags, entry.name).info


def _log_values(client: MlflowClient, run_id: str, *, entry: Entry) -> None:
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run_id,
        metrics=[Metric(name, value, entry.ended, 0) for name, value in entry.metrics.items()],
        params=[Param(name, value) for name, value in entry.params.items()],
        tags=[RunTag(name, value) for name, value in entry.tags.items()],
    )


def _dataset_input(source: dict[str, str]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(Dataset(**source), [InputTag("mlflow.data.context", "evaluation")])
