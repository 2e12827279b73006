"""Write a job's run: opened before the work, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import Job
from harness.outcome import one_line
from harness.record import Record
from harness.tracking import contents
from harness.tracking.entry import Entry
from harness.tracking.names import ERROR_CLASS, ERROR_MESSAGE, IDENTITY, SECONDS
from harness.tracking.owner import HEARTBEAT, HOST, PID, Heartbeat, alive, now, this_process
from harness.tracking.push import push
from harness.tracking.spool import Spool
from harness.tracking.store import StoreError, connect, experiment_id, spool_folder
from harness.tracking.tracker import Attach, Earlier, OpenRun

log = logging.getLogger(__name__)

PUSH = "python -m harness.tracking push"
_PAUSE = 30.0
"""Seconds for which a store that failed is not asked again: each try may wait for a timeout."""
_PAGE = 1000


class MlflowTracker:
    """Writes runs to one MLflow store.

    Parameters
    ----------
    uri : str
        The tracking URI.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._spool = Spool(spool_folder(uri))
        self._failed_at = float("-inf")

    def earlier(self, identity: str, *, dataset: str) -> Earlier | None:
        """Return the newest run of that identity that is finished or at work, or None."""
        waiting = self._spool.find(identity)
        if waiting is not None:
            reason = f"finished, waits in the spool for the store; `{PUSH}` sends it"
            return Earlier(None, _measured(waiting.metrics), reason)
        runs = self._try(partial(self._runs, identity, dataset=dataset)) or []
        for run in runs:
            if run.info.status == "FINISHED":
                reason = f"finished as run {run.info.run_id}; force=true runs it again"
                return Earlier(run.info.run_id, _measured(run.data.metrics), reason)
        for run in runs:
            if run.info.status == "RUNNING" and alive(run.data.tags):
                return Earlier(run.info.run_id, {}, _at_work(run))
        return None

    def start(self, job: Job, identity: str | None) -> OpenRun:
        """Open a run; without the store, the result will wait in the spool."""
        run = OpenRun(job, tags=contents.job_tags(job, identity))
        run.run_id = self._try(partial(self._create, run))
        if run.run_id is not None:
            run.heartbeat = Heartbeat(partial(self._beat, run.run_id))
        return run

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED."""
        entry = replace(
            _entry(run, "FINISHED", tags=contents.record_tags(record)),
            params=contents.params(record),
            metrics=contents.metrics(record),
            source=contents.source(run.job, record),
        )

        def draw(folder: Path) -> None:
            contents.write_record(folder, run.job, record=record)
            if attach is not None:
                attach(folder)

        self._keep(entry, draw)

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""
        entry = replace(
            _entry(run, "FAILED", tags=contents.error_tags(error)),
            params=contents.planned(run.job),
        )
        self._keep(entry, partial(contents.write_traceback, error=error))

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""
        if run.close() and run.run_id is not None:
            closing = partial(self._close, run.run_id, "Interrupted", "the job was interrupted")
            self._try(closing)

    def recover(self) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """
        try:
            for folder in self._spool:
                push(folder, self._uri)
            for run in self._running():
                tags = run.data.tags
                if not alive(tags):
                    died = f"process {tags[PID]} of {tags[HOST]} ended without closing the run"
                    self._close(run.info.run_id, "ProcessDied", died)
        except Exception as error:
            raise StoreError(f"tracking.uri={self._uri}: {one_line(error)}") from error

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""
        folders = list(self._spool)
        if not folders:
            return None
        where = ", ".join(sorted({str(folder.parent) for folder in folders}))
        return f"{len(folders)} results wait in {where} for {self._uri}; `{PUSH}` sends them"

    def _keep(self, entry: Entry, draw: Callable[[Path], None]) -> None:
        """Write the entry to the spool, then try to send it from there."""
        folder = self._spool.add(entry, draw)
        self._try(partial(push, folder, self._uri))

    def _try(self, action: Callable[[], Any]) -> Any:
        """Return what the action gives, or None if the store fails or has just failed."""
        if time.monotonic() < self._failed_at + _PAUSE:
            return None
        try:
            return action()
        except Exception as error:
            self._failed_at = time.monotonic()
            log.warning("%s: %s", self._uri, one_line(error))
            log.debug("the store failed", exc_info=True)
            return None

    def _create(self, run: OpenRun) -> str:
        client = connect(self._uri)
        experiment = experiment_id(self._uri, name=run.job.dataset.name)
        tags = run.tags | this_process()
        return str(client.create_run(experiment, run.started, tags, str(run.job)).info.run_id)

    def _close(self, run_id: str, name: str, message: str) -> None:
        client = connect(self._uri)
        client.set_tag(run_id, ERROR_CLASS, name)
        client.set_tag(run_id, ERROR_MESSAGE, message)
        client.set_terminated(run_id, "KILLED")

    def _beat(self, run_id: str) -> None:
        connect(self._uri).set_tag(run_id, HEARTBEAT, now())

    def _runs(self, identity: str, *, dataset: str) -> list[Any]:
        """Return the runs of an identity, the newest first."""
        return connect(self._uri).search_runs(
            [experiment_id(self._uri, name=dataset)],
            f"tags.{IDENTITY} = '{identity}'",
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
        )

    def _running(self) -> list[Any]:
        """Return the runs of this harness that are open."""
        client = connect(self._uri)
        experiments = [e.experiment_id for e in client.search_experiments(max_results=_PAGE)]
        found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=_PAGE)
        return [run for run in found if HOST in run.data.tags]


def _entry(run: OpenRun, status: str, *, tags: dict[str, str]) -> Entry:
    run.close()
    return Entry(
        experiment=run.job.dataset.name,
        name=str(run.job),
        run_id=run.run_id,
        status=status,
        started=run.started,
        ended=round(time.time() * 1000),
        job_tags=run.tags,
        tags=tags,
    )


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(SECONDS)}


def _at_work(run: Any) -> str:
    tags = run.data.tags
    return f"runs now as run {run.info.run_id}, process {tags[PID]} of {tags[HOST]}"
