"""One job from its settings to its run: what any process of a sweep does, whoever started it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import Job, TrackingConfig
from harness.outcome import Outcome, one_line
from harness.progress import Progress
from harness.record import Record
from harness.signals import Interrupted, deferred, interruptible
from harness.stages import Stages
from harness.tracking import NoTracker, OpenRun, StoreError, Tracker, open_tracker

if TYPE_CHECKING:
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
        A fault of the job is its outcome, never an exception: the rest of a sweep goes on.

    Raises
    ------
    Interrupted
        On SIGINT or SIGTERM, once the run is closed as KILLED.
    """
    with _log_file(task.folder), interruptible():
        tracker = open_tracker(task.tracking)
        return run_job(
            task.job, tracker, force=task.force, save_model=task.save_model, stages=stages
        )


def run_job(
    job: Job,
    tracker: Tracker,
    *,
    force: bool = False,
    save_model: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Run one job, unless a finished run of it exists, and keep its record or its failure.

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
    # What computes takes a second to import, for `--help` and for mistakes in the settings too.
    from harness.evaluate import identify, measure
    from harness.fitting import fit, split_of

    started = time.perf_counter()
    stages = Stages() if stages is None else stages
    run = None
    try:
        with stages("data"):
            split = split_of(job)
            if save_model:
                _check_save_model(job, tracker, n_train=len(split.train))
            identity = identify(job, split)
        earlier = None if force else tracker.earlier(identity, dataset=job.dataset.name)
        if earlier is not None:
            return Outcome(str(job), "skipped", earlier.run_id, earlier.metrics, earlier.reason)
        with deferred():
            run = tracker.start(job, identity)
        fitted = fit(job, stages, split=split)
        record = measure(fitted, stages)
        attach = _saving(fitted) if save_model else None
        with deferred():
            tracker.finish(run, record, attach=attach)
        outcome = _finished(job, record, run_id=run.run_id)
    except Interrupted:
        if run is not None:
            with deferred():
                tracker.kill(run)
        raise
    except Exception as error:
        outcome = _failed(job, tracker, run=run, error=error)
    return replace(outcome, seconds=time.perf_counter() - started)


def _check_save_model(job: Job, tracker: Tracker, *, n_train: int) -> None:
    from harness.predict.training import check_holding_out

    if isinstance(tracker, NoTracker):
        raise ValueError("save_model must be false where tracking.kind is none, got true")
    check_holding_out(job, n_train)


def _saving(fitted: Fitted) -> Callable[[Path], None]:
    """Return what writes the model into a folder; all that takes time is done before."""
    from harness.predict.saving import saving  # mlflow is imported for those who ask for it

    return saving(fitted)


def _finished(job: Job, record: Record, *, run_id: str | None) -> Outcome:
    n_images = record.n_train + record.n_test_normal + record.n_test_anomalous
    return Outcome(str(job), "finished", run_id, record.metrics, n_images=n_images)


def _failed(job: Job, tracker: Tracker, *, run: OpenRun | None, error: Exception) -> Outcome:
    log.info("%s failed", job, exc_info=error)
    with deferred():
        run = tracker.start(job, None) if run is None else run
        tracker.fail(run, error)
    return Outcome(str(job), "failed", run.run_id, reason=one_line(error))


@contextmanager
def sweep_of(n_jobs: int, tracking: TrackingConfig) -> Iterator[Progress]:
    """Frame a sweep: before and after it, put right what crashed processes left in the store.

    Parameters
    ----------
    n_jobs : int
        How many jobs the sweep has.
    tracking : TrackingConfig
        Where their runs are kept.

    Yields
    ------
    Progress
        Where to report each job.

    Raises
    ------
    StoreError
        If the store cannot be reached at the start; at the end it only costs a warning.
    """
    tracker = open_tracker(tracking)
    tracker.recover()
    try:
        with Progress(n_jobs) as progress:
            yield progress
    finally:
        with suppress(StoreError):
            tracker.recover()
        waiting = tracker.waiting()
        if waiting:
            print(waiting, file=sys.stderr)  # noqa: T201


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Write what is logged inside the block to the folder's `job.log`, and warnings too."""
    handler = _LogFile(folder / "job.log", delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
