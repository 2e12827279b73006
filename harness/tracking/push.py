"""From an entry of the spool to a run in MLflow; safe to break off and to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.tracking.entry import Entry, locked, name_run, read_entry
from harness.tracking.names import ERROR_CLASS, ERROR_MESSAGE
from harness.tracking.owner import this_process
from harness.tracking.runs import same_job
from harness.tracking.spool import artifacts, remove
from harness.tracking.store import connect, experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, RunInfo


def push(folder: Path, uri: str) -> str | None:
    """Send an entry to the store and take it out of the spool.

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
        with locked(folder / "lock", wait=False) as held:
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
    twin = _twin(entry, uri) if entry.unchecked else None
    if twin is not None:
        _drop(entry, uri)
        return twin
    info = _opened(folder, entry, uri=uri)
    client = connect(uri)
    # Sent twice, an artifact replaces itself, and a value equal to the one there is no error.
    _log_artifacts(artifacts(folder), info.artifact_uri, uri=uri)
    _log_values(client, info.run_id, entry=entry)
    if entry.source:
        client.log_inputs(info.run_id, [_dataset_input(entry.source)])
    client.set_terminated(info.run_id, entry.status, entry.ended)
    return str(info.run_id)


def _twin(entry: Entry, uri: str) -> str | None:
    """Return a finished run of the same job: what was done meanwhile was done for nothing."""
    found = same_job(uri, entry.experiment, tags=entry.job_tags)
    finished = [run.info.run_id for run in found if run.info.status == "FINISHED"]
    return next((run_id for run_id in finished if run_id != entry.run_id), None)


def _drop(entry: Entry, uri: str) -> None:
    if entry.run_id is not None:
        connect(uri).delete_run(entry.run_id)


def _opened(folder: Path, entry: Entry, *, uri: str) -> RunInfo:
    """Return what MLflow says of a run that takes the entry's values."""
    client, experiment = connect(uri), experiment_id(uri, name=entry.experiment)
    if entry.run_id is None:
        # Should this process die now, the run left behind is recognised by its tags.
        tags = entry.job_tags | this_process()
        run = client.create_run(experiment, entry.started, tags, entry.name)
        name_run(folder, entry, run_id=run.info.run_id)
        return run.info
    run = client.get_run(entry.run_id)
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(entry.run_id)
    if entry.status == "FINISHED":
        # Another machine may have taken its process for dead, and closed it.
        for name in {ERROR_CLASS, ERROR_MESSAGE} & run.data.tags.keys():
            client.delete_tag(entry.run_id, name)
    return run.info


def _log_artifacts(folder: Path, location: str, *, uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # MLflow's client would read the whole run once more to learn where its artifacts go.
    get_artifact_repository(location, tracking_uri=uri).log_artifacts(str(folder))


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
