"""The run of a job: opened before the work, closed as FINISHED, FAILED or KILLED."""
# ruff: noqa: D102 - see `Tracker`

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from harness.config import Job, TrackingConfig
from harness.provenance import CHANGED
from harness.record import Outcome, Record
from harness.system.locks import JobLocks
from harness.system.signals import deferred, ending
from harness.system.terminal import one_line, shown
from harness.tracking import contents, read, store
from harness.tracking.contents import CODE, ERROR_CLASS, ERROR_MESSAGE, IDENTITY, LOCKS, JobKey
from harness.tracking.outbox import Entry, Files, Outbox, Write, create_run, push, read_entry

_PUSH = "`python -m harness.tracking push`"
_CELL = ("official", "model", "backbone", CODE)
_LONGEST_PREFIX = 100
_PAUSE = 30.0  # seconds for which a store that failed is not asked: each try may wait for a timeout
_RETRY = 1.0  # seconds after which a store is asked once more, where it refused at once

log = logging.getLogger(__name__)


@dataclass
class OpenRun:
    """The run of a running job."""

    job: Job
    experiment: str = ""
    run_id: str | None = None  # MLflow's; None where no run could be opened
    tags: dict[str, str] = field(default_factory=dict)  # what was known before the work
    started: int = field(default_factory=lambda: round(time.time() * 1000))
    closed: bool = False  # whether its end is in the outbox, or in the store

    def entry(self, status: str) -> Entry:
        """Return the run as it is now."""
        return Entry(
            experiment=self.experiment,
            name=contents.run_name(self.job),
            run_id=self.run_id,
            status=status,
            started=self.started,
            ended=round(time.time() * 1000),
            job_tags=self.tags,
        )


class Tracker:
    """Where a sweep keeps its runs; no fault of a store ends a job. This one keeps nothing."""

    def finished_run(self, job: Job, key: JobKey) -> Outcome | None:
        """Return the job as skipped for its newest finished run, if there is one."""
        return None

    @contextmanager
    def lock(self, identity: str) -> Iterator[str | None]:
        """Keep other processes from the job in this block; give which one runs it already."""
        yield None

    def start(self, job: Job, key: JobKey | None) -> OpenRun:
        """Open a run; of a job that failed before its key was known, only when it is closed."""
        return OpenRun(job)

    def finish(self, run: OpenRun, record: Record, *, attach: Write | None = None) -> None:
        """Keep the record and what `attach` writes; raises `OSError` if no disk can."""

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""

    def recover(self) -> None:
        """Send what waits, and close runs of dead processes; raises `StoreError` if it cannot."""

    def waiting(self) -> list[str]:
        """Say in lines which results the store could not take yet, if any."""
        return []

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or return None."""
        return None


class MlflowTracker(Tracker):
    """Keeps runs in one MLflow store; `locks` is the folder of the locks of running jobs."""

    def __init__(self, uri: str, locks: Path | None = None, prefix: str = "") -> None:
        self.uri, self.outbox = uri, Outbox(uri)
        self._locks, self._prefix = JobLocks(locks), prefix
        self._failed_at = float("-inf")
        self._refused: dict[Path, str] = {}

    def finished_run(self, job: Job, key: JobKey) -> Outcome | None:
        tags = contents.job_tags(job, key)
        for entry in self.outbox.find(key.identity):
            if entry.experiment == self.experiment(job) and _same_cell(entry.job_tags, tags):
                where = f"waits in the outbox for the store; {_PUSH} sends it"
                return _skipped(job, entry.metrics, f"{_commit(entry.job_tags)}, {where}")
        for run in self._try(lambda: self._same_job(job, tags, "FINISHED")) or []:
            reason = f"run {run.info.run_id}, {_commit(run.data.tags)}"
            return _skipped(job, run.data.metrics, reason, run_id=run.info.run_id)
        return None

    @contextmanager
    def lock(self, identity: str) -> Iterator[str | None]:
        with self._locks.hold(identity) as holder:
            yield None if holder is None else f"running elsewhere, in {holder}"

    def start(self, job: Job, key: JobKey | None) -> OpenRun:
        run = OpenRun(job, self.experiment(job), tags=contents.job_tags(job, key))
        if key is not None:
            process = {contents.HOST: platform.node(), contents.PID: str(os.getpid())}
            tags, entry = process | {LOCKS: self._locks.id}, run.entry("RUNNING")
            run.run_id = self._try(lambda: str(create_run(entry, tags, uri=self.uri).run_id))
        return run

    def finish(self, run: OpenRun, record: Record, *, attach: Write | None = None) -> None:
        changed = contents.changed_tags(run.job)
        run.tags |= changed
        entry = replace(run.entry("FINISHED"), **contents.of_record(run.job, record))
        entry.tags.update(changed)
        self._keep(run, entry, contents.record_files(run.job, record), attach=attach)
        self._try(lambda: self._close_others(run))

    def fail(self, run: OpenRun, error: BaseException) -> None:
        entry = replace(run.entry("FAILED"), **contents.of_error(run.job, error))
        self._keep_or_close(run, entry, contents.error_files(error))

    def kill(self, run: OpenRun) -> None:
        if run.run_id is not None and not run.closed:
            tags = {ERROR_CLASS: "Interrupted", ERROR_MESSAGE: "the job was interrupted"}
            self._keep_or_close(run, replace(run.entry("KILLED"), tags=tags), {})

    def recover(self) -> None:
        with store.errors_of(self.uri), store.hurried():
            store.connect(self.uri).search_experiments(max_results=1)
            self.outbox.clean_up()
            self._refused = {}
            for folder in self.outbox:
                self._push(folder)
            for run in open_runs(self.uri):
                if self._is_alive(run) is False:
                    _close_dead(self.uri, run)

    def waiting(self) -> list[str]:
        try:
            folders = list(self.outbox)
        except OSError as error:
            return [one_line(error)]
        wait = f"{len(folders)} results are waiting in {self.outbox.folder} for {self.uri}"
        refused = [why for path, why in self._refused.items() if path in folders]
        return [f"{wait}; {_PUSH} sends them", *refused] if folders else []

    def outdated(self) -> str | None:
        return cast("str | None", self._try(lambda: read.outdated(self.uri)))

    def close(self, run_ids: Collection[str]) -> dict[str, str]:
        """Close these runs, whose processes have ended; return what each open run is, by its id."""
        states = {}
        with store.errors_of(self.uri):
            for run in open_runs(self.uri):
                state = "still running" if self._is_alive(run) else "open"
                if state == "open" and run.info.run_id in run_ids:
                    _close_dead(self.uri, run)
                    state = "closed"
                states[run.info.run_id] = f"{state}: {run.info.run_name}, {_process_of(run)}"
        return states

    def experiment(self, job: Job) -> str:
        """Return the name of the experiment of a job."""
        return self._prefix + job.dataset.name

    def _keep(
        self, run: OpenRun, entry: Entry, files: Files, *, attach: Write | None = None
    ) -> None:
        """Write the entry to the outbox, then try to send it from there."""
        with deferred():
            try:
                folder = self.outbox.add(entry, files, attach=attach)
            except OSError as error:
                what = f"{self.outbox.folder} cannot hold the result ({error})"
                raise OSError(f"{what}: the same command does the job again") from error
            run.closed = True
        # A signal may interrupt this; the next command sends what is in the outbox.
        run.run_id = self._try(lambda: push(folder, self.uri)) or run.run_id

    def _keep_or_close(self, run: OpenRun, entry: Entry, files: Files) -> None:
        """Keep the entry; where no disk can, close the run at least."""
        try:
            self._keep(run, entry, files)
        except OSError as error:
            log.warning("%s", error)
            run_id = run.run_id
            if run_id is not None:
                self._try(lambda: _terminate(self.uri, run_id, entry.status, entry.tags))

    def _push(self, folder: Path) -> None:
        """Send an entry; one that the store refuses must not keep it from taking the others."""
        try:
            push(folder, self.uri)
        except Exception as error:
            log.debug("%s cannot be sent", folder, exc_info=True)
            name = str(folder)
            with suppress(OSError, ValueError, TypeError):  # damaged
                name = read_entry(folder).name
            self._refused[folder] = shown(f"{name}: {one_line(error)}")
            store.connect(self.uri).search_experiments(max_results=1)  # raises where all would fail

    def _try(self, action: Callable[[], Any]) -> Any:
        """Return what the action gives, or None if the store fails or has just failed."""
        if time.monotonic() < self._failed_at + _PAUSE:
            return None
        started = time.monotonic()
        try:
            with store.hurried():
                try:
                    return action()
                except Exception:
                    if ending() or time.monotonic() > started + _RETRY:
                        raise
                time.sleep(_RETRY)
                return action()
        except Exception as error:
            self._failed_at = time.monotonic()
            log.warning("%s: %s", self.uri, one_line(error))
            log.debug("the store failed", exc_info=True)
            return None

    def _same_job(self, job: Job, tags: Mapping[str, str], status: str) -> list[Any]:
        """Return the runs of that status whose numbers are those of the job, the newest first.

        An equal identity means equal numbers from equal code; under another name, a table would
        not accept them.
        """
        found = store.connect(self.uri).search_runs(
            [store.experiment_id(self.uri, name=self.experiment(job))],
            f"tags.{IDENTITY} = '{tags[IDENTITY]}' and attributes.status = '{status}'",
            max_results=store.PAGE,
            order_by=["attributes.start_time DESC"],
        )
        return [run for run in found if _same_cell(run.data.tags, tags)]

    def _close_others(self, run: OpenRun) -> None:
        """Close the open runs of a finished job: their processes may never come back."""
        for other in self._same_job(run.job, run.tags, "RUNNING"):
            if other.info.run_id != run.run_id:
                _close_dead(self.uri, other, f"; its job was finished as run {run.run_id}")

    def _is_alive(self, run: Any) -> bool | None:
        """Return whether a run's process holds its lock; None where that cannot be seen here."""
        tags = run.data.tags
        ours = tags.get(LOCKS) == self._locks.id
        return self._locks.is_held(tags.get(IDENTITY, "")) if ours else None


def open_tracker(config: TrackingConfig, cache: str | None) -> Tracker:
    """Return the tracker that `conf/tracking` names; the same one for equal settings.

    The locks of running jobs are beside an SQLite store; those of a server in the feature cache,
    `cache`. Raises `StoreError` for a setting that cannot be.
    """
    if len(config.prefix) > _LONGEST_PREFIX or not config.prefix.isprintable():
        rule = f"at most {_LONGEST_PREFIX} characters without control characters"
        raise store.StoreError(f"tracking.prefix must be {rule}, got {config.prefix!a}")
    if config.kind == "none":
        return Tracker()
    if config.kind != "mlflow":
        raise store.StoreError(f"tracking.kind must be one of mlflow, none; got {config.kind!r}")
    uri = store.store_uri(config.uri)
    file = store.sqlite_file(uri)
    folder = file.parent if file else Path(cache).resolve() if cache is not None else None
    return _mlflow_tracker(uri, None if folder is None else folder / "locks", config.prefix)


# One for each store and process: connecting takes longer than writing a run.
_mlflow_tracker = lru_cache(maxsize=None)(MlflowTracker)


def open_runs(uri: str) -> list[Any]:
    """Return the runs of this harness that are open."""
    client, still_open = store.connect(uri), "attributes.status = 'RUNNING'"
    found = client.search_runs(store.experiment_ids(client), still_open, max_results=store.PAGE)
    return [run for run in found if contents.HOST in run.data.tags]


def _process_of(run: Any) -> str:
    tags = run.data.tags
    return shown(f"process {tags.get(contents.PID, '?')} of {tags.get(contents.HOST, '?')}")


def _close_dead(uri: str, run: Any, why: str = "") -> None:
    """Close the run of a process that died as KILLED, unless it has been closed meanwhile."""
    if store.connect(uri).get_run(run.info.run_id).info.status == "RUNNING":
        message = f"{_process_of(run)} ended without closing the run{why}"
        tags = {ERROR_CLASS: "ProcessDied", ERROR_MESSAGE: message}
        _terminate(uri, run.info.run_id, "KILLED", tags)


def _terminate(uri: str, run_id: str, status: str, tags: Mapping[str, str]) -> None:
    client = store.connect(uri)
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.set_terminated(run_id, status)


def _same_cell(tags: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Return whether tags name one cell of a table, are equally official and of the same code."""
    return tags.get(CODE) != CHANGED and all(tags.get(name) == others.get(name) for name in _CELL)


def _commit(tags: Mapping[str, str]) -> str:
    edited = ", uncommitted changes" if tags.get("dirty") == "true" else ""
    return f"commit {tags.get('commit', '?')[:10]}{edited}"


def _skipped(
    job: Job, metrics: dict[str, float], reason: str, *, run_id: str | None = None
) -> Outcome:
    return Outcome(str(job), "skipped", run_id, contents.measured(metrics), reason)
