"""Hand out tasks and take back outcomes, one by one: what happens to one task stays with it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Protocol

from harness.outcome import Outcome, one_line
from harness.record import Stages
from harness.signals import deferred
from harness.work import Task, log_file, perform

log = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of a task: killed, crashed or out of memory.

    Its message says how; where the worker could send its traceback, that is a note.
    """


class Pending(Protocol):
    """A task at work."""

    def done(self) -> bool:
        """Tell whether it has ended, in whatever way."""

    def result(self) -> Outcome:
        """Return its outcome; raises `WorkerDiedError` if its process died."""


class Pool:
    """Does tasks, `size` of them at once."""

    size = 1

    def submit(self, task: Task) -> Pending:
        """Begin a task."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait until something at work may have ended."""

    def stop(self) -> None:
        """End what is at work within seconds."""

    def close(self) -> None:
        """End the idle workers."""


class InProcess(Pool):
    """Does each task in this process when it is submitted: nothing is at work between two tasks.

    Parameters
    ----------
    watch : callable
        Called with the name of each stage of a job when it begins.
    """

    def __init__(self, watch: Callable[[str], object]) -> None:
        self._watch = watch

    def submit(self, task: Task) -> Pending:
        """Do the task; backbone and store stay open between them."""
        done: Future[Outcome] = Future()
        done.set_result(perform(task, Stages(self._watch)))
        return done


def run_tasks(
    tasks: Sequence[Task], pool: Pool, *, fail_fast: bool = False
) -> Generator[tuple[int, Outcome]]:
    """Do all tasks.

    Parameters
    ----------
    tasks : sequence of Task
        Begun in this order.
    pool : Pool
        Who does them; what is at work when the generator is closed is stopped.
    fail_fast : bool
        Whether the first failure stops the rest.

    Yields
    ------
    tuple of int and Outcome
        The task's index and its outcome, in the order of their ends. A task whose process died
        has failed. After a failure that stops the rest, nothing more comes.
    """
    waiting = deque(range(len(tasks)))
    at_work: dict[int, Pending] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < pool.size:
                number = waiting.popleft()
                at_work[number] = _begin(tasks[number], pool)
            ended = [number for number, pending in at_work.items() if pending.done()]
            for number in ended:
                outcome = _outcome(tasks[number], at_work.pop(number))
                yield number, outcome
                if fail_fast and outcome.status == "failed":
                    return
            if not ended:
                pool.wait()
    finally:
        if at_work:
            with deferred():
                pool.stop()


def _begin(task: Task, pool: Pool) -> Pending:
    """Submit a task; where the pool cannot begin it, it has failed."""
    try:
        return pool.submit(task)
    except Exception as error:
        failed: Future[Outcome] = Future()
        failed.set_exception(error)
        return failed


def _outcome(task: Task, pending: Pending) -> Outcome:
    try:
        return pending.result()
    except Exception as error:
        with log_file(task.folder):
            log.info("%s failed", task.job, exc_info=error)
        return Outcome(str(task.job), "failed", reason=one_line(error))
