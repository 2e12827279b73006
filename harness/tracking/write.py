"""Write a job's run: opened before the work, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import Job
from harness.outcome import one_line
from harness.record import Record
from harness.show import shown
from harness.signals import deferred, ending
from harness.tracking import contents
from harness.tracking.entry import Entry, entry_name
from harness.tracking.names import ERROR_CLASS, ERROR_MESSAGE, SECONDS
from harness.tracking.owner import (
    HEARTBEAT,
    HOST,
    PID,
    Heartbeat,
    alive,
    is_this_process,
    now,
    this_process,
)
from harness.tracking.push import push
from harness.tracking.read import outdated
from harness.tracking.runs import close_dead, open_runs, same_cell, same_job
from harness.tracking.spool import Spool
from harness.tracking.store import StoreError, connect, experiment_id, hurried, spool_folder
from harness.tracking.tracker import Attach, Earlier, Known, OpenRun

log = logging.getLogger(__name__)

PUSH = "python -m harness.tracking push"
_PAUSE = 30.0
"""Seconds for which a store that failed is not asked again: each try may wait for a timeout."""
_AGAIN = 1.0
"""Seconds after which a store is asked once more, where it refused at once."""
_SETTLE = 2.0
"""Seconds within which a run that sees an older one of the same job is given up."""


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
        self._refused: dict[Path, str] = {}

    def earlier(self, job: Job, known: Known) -> Earlier | None:
        """Return the newest run of the job that is finished or at work, or None."""
        tags = contents.job_tags(job, known)
        for waiting in self._spool.find(known.identity):
            if same_cell(waiting.job_tags, tags):
                where = f"waits in the spool for the store; `{PUSH}` sends it"
                reason = f"{_commit(waiting.job_tags)}, {where}"
                return Earlier(None, _measured(waiting.metrics), reason)
        runs = self._try(partial(same_job, self._uri, job.dataset.name, tags=tags)) or []
        return _finished(runs) or next(map(_at_work, filter(_live, runs)), None)

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open a run; without the store, the result will wait in the spool."""
        run = OpenRun(job, tags=contents.job_tags(job, known))
        run.run_id = self._try(partial(self._create, run))
        if run.run_id is not None:
            run.heartbeat = Heartbeat(partial(self._beat, run.run_id))
        return run

    def rival(self, run: OpenRun) -> Earlier | None:
        """Return the run of the same job for which this one was given up, or None.

        Two processes may have begun a job at once, as neither saw the other's run. The older run
        goes on: the younger sees it and gives way. One that stays had not seen the older.
        """
        end = time.monotonic() + _SETTLE
        while True:
            runs = self._try(partial(same_job, self._uri, run.job.dataset.name, tags=run.tags))
            run.unchecked = runs is None
            others = [other for other in runs or [] if other.info.run_id != run.run_id]
            live = [other for other in others if _live(other)]
            found = _finished(others) or next(map(_at_work, live), None)
            if found is None:
                return None
            if not found.busy or _older(live, run) or time.monotonic() > end:
                self._give_up(run)
                return found
            time.sleep(0.1)

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED."""
        changed = contents.changed_tags(run.job)
        run.tags |= changed
        entry = replace(
            _entry(run, "FINISHED", tags=contents.record_tags(record) | changed),
            params=contents.params(record),
            metrics=contents.metrics(record),
            source=contents.source(run.job, record),
        )
        figures = contents.figures(record)

        def write(folder: Path) -> None:
            contents.write_record(folder, run.job, record=record)
            for name, text in figures.items():
                (folder / name).write_text(text, encoding="utf-8")
            if attach is not None:
                _attach(attach, folder)

        self._keep(run, entry, write)

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""
        entry = replace(
            _entry(run, "FAILED", tags=contents.error_tags(error)),
            params=contents.planned(run.job),
        )
        self._keep(run, entry, partial(contents.write_traceback, error=error))

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""
        if run.run_id is not None and not run.closed:
            tags = {ERROR_CLASS: "Interrupted", ERROR_MESSAGE: "the job was interrupted"}
            self._keep(run, _entry(run, "KILLED", tags=tags), _nothing)

    def bury(self, process: Mapping[str, str]) -> None:
        """Close the open runs of a process that has died, given tags that name it."""
        self._try(partial(self._close_runs, lambda tags: process.items() <= tags.items()))

    def recover(self, *, at_end: bool = False) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        Parameters
        ----------
        at_end : bool
            Whether this process itself has nothing at work any more.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """
        try:
            with hurried(ending()):
                connect(self._uri).search_experiments(max_results=1)
                self._spool.sweep_up()
                self._refused = {}
                for folder in self._spool:
                    self._push(folder)
                self._close_runs(partial(_dead, at_end=at_end))
        except Exception as error:
            raise StoreError(f"tracking.uri={self._uri}: {one_line(error)}") from error

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""
        folders = list(self._spool)
        if not folders:
            return None
        where = ", ".join(sorted({str(folder.parent) for folder in folders}))
        message = f"{len(folders)} results wait in {where} for {self._uri}; `{PUSH}` sends them"
        refused = [why for path, why in self._refused.items() if path in folders]
        return "\n".join([message, *refused])

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or None."""
        found: str | None = self._try(partial(outdated, self._uri))
        return found

    def _keep(self, run: OpenRun, entry: Entry, write: Callable[[Path], None]) -> None:
        """Write the entry to the spool, then try to send it from there."""
        with deferred():
            folder = self._spool.add(entry, write)
            run.close()
        # Sending may be broken off: it is taken up again from the spool.
        self._try(partial(push, folder, self._uri))

    def _push(self, folder: Path) -> None:
        """Send an entry; one that the store refuses must not keep it from taking the others."""
        try:
            push(folder, self._uri)
        except Exception as error:
            log.debug("%s cannot be sent", folder, exc_info=True)
            self._refused[folder] = shown(f"{entry_name(folder)}: {one_line(error)}")
            connect(self._uri).search_experiments(max_results=1)  # raises where all would fail

    def _try(self, action: Callable[[], Any]) -> Any:
        """Return what the action gives, or None if the store fails or has just failed."""
        if time.monotonic() < self._failed_at + _PAUSE:
            return None
        started = time.monotonic()
        try:
            with hurried(ending()):
                try:
                    return action()
                except Exception:
                    if ending() or time.monotonic() > started + _AGAIN:
                        raise
                time.sleep(_AGAIN)
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

    def _give_up(self, run: OpenRun) -> None:
        run.close()
        if run.run_id is not None:
            self._try(partial(connect(self._uri).delete_run, run.run_id))

    def _beat(self, run_id: str) -> None:
        connect(self._uri).set_tag(run_id, HEARTBEAT, now())

    def _close_runs(self, dead: Callable[[Mapping[str, str]], bool]) -> None:
        for run in open_runs(self._uri):
            tags = run.data.tags
            if dead(tags):
                died = f"process {tags[PID]} of {tags[HOST]} ended without closing the run"
                close_dead(self._uri, run.info.run_id, died)


def _dead(tags: Mapping[str, str], *, at_end: bool) -> bool:
    return not alive(tags) or (at_end and is_this_process(tags))


def _entry(run: OpenRun, status: str, *, tags: dict[str, str]) -> Entry:
    return Entry(
        experiment=run.job.dataset.name,
        name=str(run.job),
        run_id=run.run_id,
        status=status,
        started=run.started,
        ended=round(time.time() * 1000),
        job_tags=run.tags,
        tags=tags,
        unchecked=run.unchecked and status == "FINISHED",
    )


def _nothing(_folder: Path) -> None:
    """Write no artifact."""


def _attach(attach: Attach, folder: Path) -> None:
    """Add further artifacts: all of them or, after a fault, none; the numbers stay."""
    apart = folder.with_name("attached")
    apart.mkdir()
    try:
        attach(apart)
        for path in apart.iterdir():
            path.rename(folder / path.name)
    except Exception:
        log.warning("what was to be attached could not be written", exc_info=True)
    finally:
        shutil.rmtree(apart)


def _finished(runs: list[Any]) -> Earlier | None:
    """Tell of the newest finished run."""
    for run in runs:
        if run.info.status == "FINISHED":
            reason = f"run {run.info.run_id}, {_commit(run.data.tags)}"
            return Earlier(run.info.run_id, _measured(run.data.metrics), reason)
    return None


def _commit(tags: Mapping[str, str]) -> str:
    edited = ", uncommitted changes" if tags["dirty"] == "true" else ""
    return f"commit {tags['commit'][:10]}{edited}"


def _live(run: Any) -> bool:
    return run.info.status == "RUNNING" and alive(run.data.tags)


def _older(others: list[Any], run: OpenRun) -> bool:
    """Tell whether one of the others is older than the run."""
    own = (run.started, run.run_id or "")
    return any((other.info.start_time, other.info.run_id) < own for other in others)


def _at_work(run: Any) -> Earlier:
    tags = run.data.tags
    where = f"process {tags[PID]} of {tags[HOST]}"
    return Earlier(run.info.run_id, {}, f"runs now as run {run.info.run_id}, {where}", busy=True)


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(SECONDS)}
