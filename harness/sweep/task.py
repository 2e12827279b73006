"""One job from its settings to its run: what any process of a sweep does, whoever started it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import Job, TrackingConfig
from harness.provenance import code_digest
from harness.record import Record, Stages
from harness.sweep.outcome import Outcome, Progress, Status, one_line
from harness.sweep.signals import Interrupted, deferred, interruptible
from harness.system.terminal import LineFormatter, say
from harness.tracking import (
    Earlier,
    Known,
    OpenRun,
    StoreError,
    Tracker,
    open_tracker,
)
from harness.tracking.average_runs import averages

if TYPE_CHECKING:
    from harness.data import Split
    from harness.fitting import Fitted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A job and how to run it; plain data, for other processes to read.

    Attributes
    ----------
    job : Job
        What to run.
    tracking : TrackingConfig
        Where its run is kept.
    folder : Path
        Where its log goes, as `job.log`.
    force : bool
        Run it again although a finished run exists.
    save_model : bool
        Keep the fitted model in its run.
    """

    job: Job
    tracking: TrackingConfig
    folder: Path
    force: bool = False
    save_model: bool = False


def perform(task: Task, stages: Stages | None = None) -> Outcome:
    """Do a task in this process.

    Parameters
    ----------
    task : Task
        What to do.
    stages : Stages, optional
        The stopwatch that the job's stages are timed with.

    Returns
    -------
    Outcome
        A fault of the job is its outcome: the rest of a sweep goes on.

    Raises
    ------
    Interrupted
        On SIGINT, SIGTERM or SIGHUP, once the run is closed as KILLED.
    """
    with log_file(task.folder), interruptible():
        return run_job(
            task.job,
            open_tracker(task.tracking, task.job.features.cache),
            force=task.force,
            save_model=task.save_model,
            stages=stages,
        )


def run_job(
    job: Job,
    tracker: Tracker,
    *,
    force: bool = False,
    save_model: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Run one job, unless one is finished or running elsewhere, and keep its record or failure.

    Parameters
    ----------
    job : Job
        The job.
    tracker : Tracker
        Where its run is kept.
    force : bool
        Run it again although a finished run exists.
    save_model : bool
        Keep the fitted model in its run.
    stages : Stages, optional
        The stopwatch that the job's stages are timed with.

    Returns
    -------
    Outcome
        As `perform`.
    """
    started = time.perf_counter()
    work = _Work(job, tracker, Stages() if stages is None else stages)
    outcome = work.outcome(force=force, save_model=save_model)
    return replace(outcome, identity=work.identity, seconds=time.perf_counter() - started)


class _Work:
    """A job on its way to its outcome; its run and its identity, as soon as they are known."""

    def __init__(self, job: Job, tracker: Tracker, stages: Stages) -> None:
        self.job, self.tracker, self.stages = job, tracker, stages
        self.run: OpenRun | None = None
        self.identity = ""

    def outcome(self, *, force: bool, save_model: bool) -> Outcome:
        try:
            with self.stages("data"):
                split, known = _known(self.job)
            self.identity = known.identity
            if save_model:
                _check_save_model(self.job, self.tracker, n_train=len(split.train))
            found = None if force else self.tracker.earlier(self.job, known)
            if found is not None:
                return _not_run(self.job, found)
            return self._locked(split, known, force=force, save_model=save_model)
        except Exception as error:
            return self._failed(error)

    def _locked(self, split: Split, known: Known, *, force: bool, save_model: bool) -> Outcome:
        """Run the job while its lock keeps other processes from it."""
        with self.tracker.lock(known) as found:
            if found is None and not force:  # another process may have finished it just now
                found = self.tracker.earlier(self.job, known)
            if found is not None:
                return _not_run(self.job, found)
            try:
                return self._recorded(split, known, save_model)
            except Interrupted:
                if self.run is not None:
                    self.tracker.kill(self.run)
                raise

    def _recorded(self, split: Split, known: Known, save_model: bool) -> Outcome:
        with deferred():
            self.run = self.tracker.start(self.job, known)
        try:
            return self._compute(split, save_model)
        except Exception as error:
            return self._failed(error)

    def _compute(self, split: Split, save_model: bool) -> Outcome:
        from harness.experiment import measure
        from harness.fitting import fit

        assert self.run is not None  # noqa: S101
        fitted = fit(self.job, self.stages, split=split)
        record = measure(fitted, self.stages)
        attach = _saving(fitted) if save_model else None
        self.tracker.finish(self.run, record, attach=attach)
        return _finished(self.job, record, run_id=self.run.run_id)

    def _failed(self, error: Exception) -> Outcome:
        log.info("%s failed", self.job, exc_info=error)
        if self.run is None:
            self.run = self.tracker.start(self.job, None)
        self.tracker.fail(self.run, error)
        return Outcome(str(self.job), "failed", self.run.run_id, reason=one_line(error))


def _known(job: Job) -> tuple[Split, Known]:
    code = code_digest(job)  # before it is imported: an edit in between is noticed at the end
    # What computes takes a second to import, for `--help` and for mistakes in the settings too.
    from harness.experiment import identify
    from harness.fitting import split_of

    split = split_of(job)
    return split, Known(identify(job, split), split.official, code)


def _check_save_model(job: Job, tracker: Tracker, *, n_train: int) -> None:
    from harness.fitting import check_holding_out

    if type(tracker) is Tracker:
        raise ValueError("save_model must be false where tracking.kind is none, got true")
    check_holding_out(job, n_train, setting="save_model must be false")


def _saving(fitted: Fitted) -> Callable[[Path], None]:
    """Return what writes the model into a folder; all that takes time is done before."""
    from harness.predict.model import saving  # mlflow is imported for those who ask for it

    return saving(fitted)


def _finished(job: Job, record: Record, *, run_id: str | None) -> Outcome:
    n_images = record.n_train + record.n_test_normal + record.n_test_anomalous
    return Outcome(str(job), "finished", run_id, record.metrics, n_images=n_images)


def _not_run(job: Job, found: Earlier) -> Outcome:
    status: Status = "busy" if found.busy else "skipped"
    return Outcome(str(job), status, found.run_id, found.metrics, found.reason)


@contextmanager
def sweep_of(progress: Progress, tracking: TrackingConfig, cache: str | None) -> Iterator[None]:
    """Frame a sweep: before and after it, put right what crashed processes left in the store.

    Parameters
    ----------
    progress : Progress
        Shown while the sweep goes on.
    tracking : TrackingConfig
        Where the runs of its jobs are kept.
    cache : str, optional
        The feature cache.

    Raises
    ------
    StoreError
        If there is no such store, or it cannot be reached at the start; at the end it only costs
        a warning.
    """
    tracker = open_tracker(tracking, cache)
    tracker.recover()
    outdated = tracker.outdated()
    if outdated:
        say(outdated, error=True)
    try:
        with progress:
            yield
    finally:
        with suppress(StoreError):
            tracker.recover()
        waiting = tracker.waiting()
        if waiting:
            say(*waiting.split("\n"), error=True)


def keep_averages(tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> None:
    """Write a run of averages for each dataset of which a sweep has finished every category."""
    config = tasks[0].tracking
    if config.kind != "none":
        lock = open_tracker(config, tasks[0].job.features.cache).lock
        ends = zip((task.job for task in tasks), outcomes, strict=True)
        say(*averages(config, ends, lock), error=True)


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Write what is logged inside the block to the folder's `job.log`."""
    handler = _LogFile(folder / "job.log", delay=True, encoding="utf-8")
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log on a disk that may be full: that costs its lines, not the job."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()
