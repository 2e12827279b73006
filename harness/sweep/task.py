"""One job from its settings to its run: what any process of a sweep does, whoever started it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Job, TrackingConfig
from harness.provenance import code_digest
from harness.record import Outcome, Stages
from harness.sweep.progress import Progress
from harness.system.signals import Interrupted, deferred, interruptible
from harness.system.terminal import LineFormatter, one_line, say
from harness.tracking import JobKey, MlflowTracker, OpenRun, StoreError, Tracker, open_tracker
from harness.tracking.average_runs import averages

if TYPE_CHECKING:
    from harness.data import Split
    from harness.fitting import Fitted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A job and how to run it; plain data, for other processes to read."""

    job: Job
    tracking: TrackingConfig
    folder: Path  # where its log goes, as `job.log`
    force: bool = False  # run it again although a finished run exists
    save_model: bool = False  # keep the fitted model in its run


def perform(task: Task, stages: Stages | None = None) -> Outcome:
    """Do a task in this process; a fault of the job is its outcome, and a sweep goes on.

    Raises `Interrupted` on SIGINT, SIGTERM or SIGHUP, once the run is closed as KILLED.
    """
    with log_file(task.folder), interruptible():
        tracker, force = open_tracker(task.tracking, task.job.features.cache), task.force
        return run_job(task.job, tracker, force=force, save_model=task.save_model, stages=stages)


def run_job(
    job: Job,
    tracker: Tracker,
    *,
    force: bool = False,
    save_model: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Run one job, unless one is finished or running elsewhere, and keep its record or failure."""
    started = time.perf_counter()
    stages = Stages() if stages is None else stages
    run: OpenRun | None = None
    known: dict[str, Any] = {}
    with ExitStack() as stack:  # the lock is held until the run is closed
        try:
            with stages("data"):
                split, key = split_and_key(job)
            known = {"identity": key.identity, "notes": split.notes}
            if save_model:
                from harness.fitting import check_holding_out, n_distinct

                check_holding_out(job, n_distinct(split), setting="save_model must be false")
            outcome = None if force else tracker.finished_run(job, key)
            holder = None if outcome else stack.enter_context(tracker.lock(key.identity))
            if holder is not None:
                outcome = Outcome(str(job), "busy", reason=holder)
            elif not (outcome or force):  # another process may have finished it just now
                outcome = tracker.finished_run(job, key)
            if outcome is None:
                with deferred():
                    run = tracker.start(job, key)
                outcome = _computed(run, tracker, split, stages, save_model=save_model)
        except Interrupted:
            if run is not None:
                tracker.kill(run)
            raise
        except Exception as error:
            outcome = _failed(job, run, tracker, error)
    if save_model and outcome.status in ("finished", "skipped"):
        outcome = _with_model(outcome, tracker)
    return replace(outcome, seconds=time.perf_counter() - started, **known)


def split_and_key(job: Job) -> tuple[Split, JobKey]:
    """Return the images of a job, and what a run of it must share to make it needless."""
    code = code_digest(job)  # before it is imported: an edit in between is noticed at the end
    # What computes takes a second to import, for `--help` and for mistakes in the settings too.
    from harness.experiment import identify
    from harness.fitting import split_of

    split = split_of(job)
    return split, JobKey(identify(job, split), split.official, code)


def _computed(
    run: OpenRun, tracker: Tracker, split: Split, stages: Stages, *, save_model: bool
) -> Outcome:
    from harness.experiment import evaluate

    fitted: list[Fitted] = []
    record = evaluate(run.job, stages, split=split, keep=fitted.append)
    attach = None
    if save_model:
        from harness.predict.model import saving  # mlflow is imported for those who ask for it

        attach = saving(fitted[0])
    tracker.finish(run, record, attach=attach)
    n_images = record.n_train + record.n_test_normal + record.n_test_anomalous
    why = record.undefined.get("image_auroc")
    reason = None if why is None else f"metrics are undefined: {why}"
    return Outcome(str(run.job), "finished", run.run_id, record.metrics, reason, n_images=n_images)


def _failed(job: Job, run: OpenRun | None, tracker: Tracker, error: Exception) -> Outcome:
    log.info("%s failed", job, exc_info=error)
    run = tracker.start(job, None) if run is None else run
    try:
        tracker.fail(run, error)
    except Interrupted:
        tracker.kill(run)
        raise
    return Outcome(str(job), "failed", run.run_id, reason=one_line(error))


def _with_model(outcome: Outcome, tracker: Tracker) -> Outcome:
    """Say how the model in an outcome's run is found; nothing while its store is away."""
    if isinstance(tracker, MlflowTracker) and outcome.run_id is not None:
        from harness.predict.model import predict_settings

        with suppress(StoreError):
            return replace(outcome, model=predict_settings(outcome.run_id, tracker.uri))
    return outcome


@contextmanager
def sweep_of(progress: Progress, tracking: TrackingConfig, cache: str | None) -> Iterator[None]:
    """Show a sweep's progress; before and after it, repair what dead processes left in the store.

    Raises `StoreError` if the store cannot be reached at the start; at the end it only costs a
    warning.
    """
    tracker = open_tracker(tracking, cache)
    tracker.recover()
    if tracking.uri is not None:
        say(f"runs are kept in {tracking.uri}", error=True)
    if outdated := tracker.outdated():
        say(outdated, error=True)
    try:
        with progress:
            yield
    finally:
        with suppress(StoreError):
            tracker.recover()
        say(*tracker.waiting(), error=True)


def keep_averages(tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> None:
    """Write a run of averages for each dataset of which a sweep has finished every category."""
    tracker = open_tracker(tasks[0].tracking, tasks[0].job.features.cache)
    if isinstance(tracker, MlflowTracker):
        ends = zip((task.job for task in tasks), outcomes, strict=True)
        say(*averages(tracker, ends), error=True)


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
