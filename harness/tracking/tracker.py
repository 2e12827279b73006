"""The run of a job: opened before the work, closed as FINISHED, FAILED or KILLED."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import Job
from harness.provenance import CHANGED
from harness.record import Record
from harness.sweep.outcome import one_line
from harness.sweep.signals import deferred, ending
from harness.system.locks import JobLocks
from harness.system.terminal import shown
from harness.tracking import contents
from harness.tracking.contents import (
    CODE,
    ERROR_CLASS,
    ERROR_MESSAGE,
    HOST,
    IDENTITY,
    LOCKS,
    PID,
    SECONDS,
    Known,
)
from harness.tracking.outbox import Entry, Outbox, entry_name, push
from harness.tracking.read import outdated
from harness.tracking.store import StoreError, connect, experiment_id, hurried

Attach = Callable[[Path], None]
"""Writes further artifacts of a run into the folder it is given."""


class Earlier(NamedTuple):
    """A run that makes another one of the same job needless.

    Attributes
    ----------
    run_id : str, optional
        MLflow's id; None where the run waits in the outbox, or is not known.
    metrics : dict of str to float
        By name; empty while it runs.
    reason : str
        Which run it is, of which code, and where; in words.
    busy : bool
        Whether it is still running.
    """

    run_id: str | None
    metrics: dict[str, float]
    reason: str
    busy: bool = False


@dataclass
class OpenRun:
    """The run of a running job.

    Attributes
    ----------
    job : Job
        The job.
    run_id : str, optional
        MLflow's id; None where no run could be opened.
    tags : dict of str to str
        What was known before the work.
    started : int
        Milliseconds since 1970.
    closed : bool
        Whether its end is kept.
    """

    job: Job
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: round(time.time() * 1000))
    closed: bool = False


class Tracker:
    """What a sweep asks of a tracking store; no fault of the store ends a job.

    This one keeps nothing.
    """

    def earlier(self, job: Job, known: Known) -> Earlier | None:
        """Return the newest finished run of the job, or None."""
        return None

    @contextmanager
    def lock(self, known: Known) -> Iterator[Earlier | None]:
        """Keep other processes from running the job in this block; yield what runs it already."""
        yield None

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open a run; of a job that failed before it was known, only when it is closed."""
        return OpenRun(job)

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED.

        Raises
        ------
        OSError
            If no disk can hold the result.
        """

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""

    def recover(self) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """

    def close(self, run_ids: Collection[str]) -> dict[str, str]:
        """Close open runs whose processes have ended; return what each open run is, by its id."""
        return {}

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""
        return None

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or None."""
        return None


log = logging.getLogger(__name__)

PUSH = "python -m harness.tracking push"
_CELL = ("official", "model", "backbone", CODE)
_PAGE = 1000
_PAUSE = 30.0
"""Seconds for which a store that failed is not asked again: each try may wait for a timeout."""
_AGAIN = 1.0
"""Seconds after which a store is asked once more, where it refused at once."""


class MlflowTracker(Tracker):
    """Writes runs to one MLflow store.

    Parameters
    ----------
    uri : str
        The tracking URI, without secrets.
    locks : Path, optional
        The folder of the locks of running jobs.
    prefix : str
        What the names of experiments begin with.
    """

    def __init__(self, uri: str, locks: Path | None = None, prefix: str = "") -> None:
        self._uri = uri
        self._prefix = prefix
        self._locks = JobLocks(locks)
        self._outbox = Outbox(uri)
        self._failed_at = float("-inf")
        self._refused: dict[Path, str] = {}

    def earlier(self, job: Job, known: Known) -> Earlier | None:
        """Return the newest finished run of the job, or None."""
        tags = contents.job_tags(job, known)
        for waiting in self._outbox.find(known.identity):
            here = waiting.experiment == self._experiment(job)
            if here and _same_cell(waiting.job_tags, tags):
                where = f"waits in the outbox for the store; `{PUSH}` sends it"
                reason = f"{_commit(waiting.job_tags)}, {where}"
                return Earlier(None, _measured(waiting.metrics), reason)
        for run in self._try(partial(self._same_job, job, tags, "FINISHED")) or []:
            reason = f"run {run.info.run_id}, {_commit(run.data.tags)}"
            return Earlier(run.info.run_id, _measured(run.data.metrics), reason)
        return None

    @contextmanager
    def lock(self, known: Known) -> Iterator[Earlier | None]:
        """Keep other processes from running the job in this block; yield what runs it already."""
        with self._locks.hold(known.identity) as holder:
            reason = f"running elsewhere, in {holder}"
            yield None if holder is None else Earlier(None, {}, reason, busy=True)

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open a run; without the store, or without a known job, only when it is closed."""
        run = OpenRun(job, tags=contents.job_tags(job, known))
        if known is not None:
            run.run_id = self._try(partial(self._create, run))
        return run

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED."""
        changed = contents.changed_tags(run.job)
        run.tags |= changed
        entry = replace(
            _entry(
                run, "FINISHED", prefix=self._prefix, tags=contents.record_tags(record) | changed
            ),
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
        self._try(partial(self._close_others, run))

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""
        entry = replace(
            _entry(run, "FAILED", prefix=self._prefix, tags=contents.error_tags(error)),
            params=contents.planned(run.job),
        )
        self._keep_or_close(run, entry, partial(contents.write_traceback, error=error))

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""
        if run.run_id is not None and not run.closed:
            tags = {ERROR_CLASS: "Interrupted", ERROR_MESSAGE: "the job was interrupted"}
            entry = _entry(run, "KILLED", prefix=self._prefix, tags=tags)
            self._keep_or_close(run, entry, _nothing)

    def recover(self) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        Raises
        ------
        StoreError
            If the store cannot be reached, or the outbox is not this user's.
        """
        try:
            with hurried(ending()):
                connect(self._uri).search_experiments(max_results=1)
                self._outbox.sweep_up()
                self._refused = {}
                for folder in self._outbox:
                    self._push(folder)
                self._close_dead()
        except Exception as error:
            raise StoreError(f"tracking.uri={self._uri}: {one_line(error)}") from error

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""
        where = self._outbox.folder
        try:
            folders, old = list(self._outbox), self._outbox.left_behind()
        except OSError as error:
            return one_line(error)
        lines = [why for path, why in self._refused.items() if path in folders]
        if folders:
            wait = f"{len(folders)} results wait in {where} for {self._uri}"
            lines.insert(0, f"{wait}; `{PUSH}` sends them")
        if old is not None:
            lines.append(f"{old} holds results of an earlier version: move them into {where}")
        return "\n".join(lines) or None

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or None."""
        found: str | None = self._try(partial(outdated, self._uri))
        return found

    def close(self, run_ids: Collection[str]) -> dict[str, str]:
        """Close open runs of which the caller knows that their processes have ended.

        Parameters
        ----------
        run_ids : collection of str
            Which ones.

        Returns
        -------
        dict of str to str
            What each open run is, by its id: closed, still running, or left open.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """
        try:
            return {run.info.run_id: self._close(run, run_ids) for run in open_runs(self._uri)}
        except Exception as error:
            raise StoreError(f"tracking.uri={self._uri}: {one_line(error)}") from error

    def _close(self, run: Any, run_ids: Collection[str]) -> str:
        tags = run.data.tags
        what = f"{run.info.run_name}, {process_of(run)}"
        if tags.get(LOCKS) == self._locks.id and self._locks.is_held(tags.get(IDENTITY, "")):
            return f"still running: {what}"
        if run.info.run_id not in run_ids:
            return f"open: {what}"
        _close_dead(self._uri, run)
        return f"closed: {what}"

    def _experiment(self, job: Job) -> str:
        return self._prefix + job.dataset.name

    def _keep(self, run: OpenRun, entry: Entry, write: Callable[[Path], None]) -> None:
        """Write the entry to the outbox, then try to send it from there."""
        with deferred():
            try:
                folder = self._outbox.add(entry, write)
            except OSError as error:
                rule = "the same command does the job again"
                where = self._outbox.folder
                raise OSError(f"{where} cannot hold the result ({error}): {rule}") from error
            run.closed = True
        # Sending may be broken off: it is taken up again from the outbox.
        run.run_id = self._try(partial(push, folder, self._uri)) or run.run_id

    def _keep_or_close(self, run: OpenRun, entry: Entry, write: Callable[[Path], None]) -> None:
        """Keep the entry; where no disk can, close the run at least."""
        try:
            self._keep(run, entry, write)
        except OSError as error:
            log.warning("%s", error)
            if run.run_id is not None:
                self._try(partial(_terminate, self._uri, run.run_id, entry.status, entry.tags))

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
        experiment = experiment_id(self._uri, name=self._experiment(run.job))
        process = {HOST: platform.node(), PID: str(os.getpid()), LOCKS: self._locks.id}
        tags = run.tags | process
        name = contents.run_name(run.job)
        return str(client.create_run(experiment, run.started, tags, name).info.run_id)

    def _same_job(self, job: Job, tags: Mapping[str, str], status: str) -> list[Any]:
        """Return the runs of that status that may stand for a job with these tags, newest first.

        An equal identity means equal numbers from equal code; under another name, a table would
        not accept them.
        """
        found = connect(self._uri).search_runs(
            [experiment_id(self._uri, name=self._experiment(job))],
            f"tags.{IDENTITY} = '{tags[IDENTITY]}' and attributes.status = '{status}'",
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
        )
        return [run for run in found if _same_cell(run.data.tags, tags)]

    def _close_others(self, run: OpenRun) -> None:
        """Close what is open of a job that is finished: who left it may never come back."""
        for other in self._same_job(run.job, run.tags, "RUNNING"):
            if other.info.run_id != run.run_id:
                _close_dead(self._uri, other, f"; its job was finished as run {run.run_id}")

    def _close_dead(self) -> None:
        """Close the runs whose locks are free: their processes have ended."""
        if self._locks.id:
            for run in open_runs(self._uri):
                tags = run.data.tags
                ours = tags.get(LOCKS) == self._locks.id
                if ours and self._locks.is_held(tags.get(IDENTITY, "")) is False:
                    _close_dead(self._uri, run)


def open_runs(uri: str) -> list[Any]:
    """Return the runs of this harness that are open."""
    client = connect(uri)
    experiments = [e.experiment_id for e in client.search_experiments(max_results=_PAGE)]
    found = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=_PAGE)
    return [run for run in found if HOST in run.data.tags]


def process_of(run: Any) -> str:
    """Say which process has opened a run."""
    return shown(f"process {run.data.tags.get(PID, '?')} of {run.data.tags.get(HOST, '?')}")


def _close_dead(uri: str, run: Any, why: str = "") -> None:
    """Close the run of a process that died as KILLED, unless it has been closed meanwhile."""
    if connect(uri).get_run(run.info.run_id).info.status == "RUNNING":
        message = f"{process_of(run)} ended without closing the run{why}"
        tags = {ERROR_CLASS: "ProcessDied", ERROR_MESSAGE: message}
        _terminate(uri, run.info.run_id, "KILLED", tags)


def _terminate(uri: str, run_id: str, status: str, tags: Mapping[str, str]) -> None:
    client = connect(uri)
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.set_terminated(run_id, status)


def _entry(run: OpenRun, status: str, *, tags: dict[str, str], prefix: str = "") -> Entry:
    return Entry(
        experiment=prefix + run.job.dataset.name,
        name=contents.run_name(run.job),
        run_id=run.run_id,
        status=status,
        started=run.started,
        ended=round(time.time() * 1000),
        job_tags=run.tags,
        tags=tags,
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


def _same_cell(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell whether the tags name one cell of a table, are equally official and of the same code."""
    return one.get(CODE) != CHANGED and all(one.get(name) == other.get(name) for name in _CELL)


def _commit(tags: Mapping[str, str]) -> str:
    edited = ", uncommitted changes" if tags.get("dirty") == "true" else ""
    return f"commit {tags.get('commit', '?')[:10]}{edited}"


def _measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(SECONDS)}
