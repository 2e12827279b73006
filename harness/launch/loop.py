"""Hand out tasks and take back outcomes, one by one: what happens to one task stays with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from harness.outcome import Outcome, one_line
from harness.signals import Interrupted, deferred, ending
from harness.work import Task


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of a task: killed, crashed or out of memory.

    Parameters
    ----------
    message : str
        How it ended.
    process : mapping of str to str, optional
        The tags of a run that name the worker, as far as they are known.
    """

    def __init__(self, message: str, process: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.process = dict(process or {})


class Pending(Protocol):
    """A task at work."""

    def done(self) -> bool:
        """Tell whether it has ended, in whatever way."""

    def result(self) -> Outcome:
        """Return its outcome; raises `WorkerDiedError` if its process died."""


class Pool(Protocol):
    """Does tasks, some at once."""

    size: int
    """How many at once."""

    def submit(self, task: Task) -> Pending:
        """Begin a task."""

    def wait(self) -> None:
        """Wait until something at work may have ended."""

    def stop(self) -> None:
        """End what is at work within seconds."""

    def close(self) -> None:
        """End the idle workers."""


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
    except (Exception, Interrupted) as error:
        if isinstance(error, Interrupted) and ending():
            raise  # this process was interrupted, not the worker
        return Outcome(str(task.job), "failed", reason=one_line(error))
