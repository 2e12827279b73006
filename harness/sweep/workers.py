"""Hand out tasks, to this process or to worker processes, and take back their outcomes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from traceback import format_exc
from typing import Protocol

from harness.provenance import read_shared_code
from harness.record import Stages
from harness.sweep.outcome import Outcome, one_line
from harness.sweep.signals import deferred
from harness.sweep.task import Task, log_file, perform
from harness.system.threads import shared
from harness.tracking.store import import_mlflow

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


_GRACE = 10.0
"""Seconds that a worker has for closing its run before it is killed."""


class Processes(Pool):
    """Does tasks in worker processes, each kept for one task after another.

    The pools of the standard library and of joblib give up every task when one worker dies.
    Here each worker has a pipe of its own: its death costs its task, and the next task gets a
    new worker. What ends the first worker before it begins a task would end every other one: the
    tasks left fail at once.

    Parameters
    ----------
    size : int
        How many workers; they divide the cores among them.
    watch : callable
        Called with the name of each stage of a job when it begins.
    """

    def __init__(self, size: int, watch: Callable[[str], object]) -> None:
        self.size = size
        self._watch = watch
        self._workers: list[_Worker] = []
        self._proven = False
        self._death: WorkerDiedError | None = None
        # One of them is sure to be needed; it imports while its parent looks after the store.
        self._hire()

    def submit(self, task: Task) -> Pending:
        """Give the task to an idle worker; raises `WorkerDiedError` where none can start."""
        self._forget_dead()
        for worker in self._workers:
            if worker.idle and worker.give(task):
                return worker
        if self._death is not None and not self._proven:
            raise self._death.with_traceback(None)
        worker = self._hire()
        worker.give(task)
        return worker

    def wait(self) -> None:
        """Wait until a worker has something to say, or has died."""
        wait([worker.pipe for worker in self._workers if not worker.idle], timeout=1.0)

    def stop(self) -> None:
        """Let the workers close their runs, then kill them."""
        for worker in self._workers:
            worker.process.terminate()
            worker.idle = True
        self.close()

    def close(self) -> None:
        """Let idle workers go, and kill the others."""
        for worker in self._workers:
            worker.pipe.close()  # which an idle one takes for the end of its work
        end = time.monotonic() + _GRACE
        for worker in self._workers:
            # An idle one has to clear up what libraries have opened.
            worker.process.join(max(0.0, end - time.monotonic()) if worker.idle else 0.0)
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def _hire(self) -> _Worker:
        with shared(self.size):
            self._workers.append(_Worker(self._tell))
        return self._workers[-1]

    def _tell(self, stage: str) -> None:
        self._proven = True
        self._watch(stage)

    def _forget_dead(self) -> None:
        dead = [worker for worker in self._workers if not worker.process.is_alive()]
        for worker in dead:
            self._workers.remove(worker)
            # What kills one from outside need not meet the next.
            if worker.process.exitcode not in (-signal.SIGKILL, -signal.SIGTERM):
                self._death = worker.death() or self._death


class _Worker:
    """A process, and the task at work in it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._answer: Outcome | WorkerDiedError | None = None
        self.idle = True
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # A daemon: it is ended with this process, if this one ends in an orderly way.
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Task) -> bool:
        """Return whether it could be given the task: it may have died just now."""
        self.idle = False
        with suppress(OSError):
            self.pipe.send(task)
            return True
        return False

    def done(self) -> bool:
        """Take what the worker has sent; tell whether its outcome, or its end, is among it."""
        dead = not self.process.is_alive()  # asked first: its last words may be in the pipe
        with suppress(EOFError, OSError):
            while self._answer is None and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, str):
                    self._tell(message)
                else:
                    self._answer = message
        if self._answer is None and dead:
            self._answer = WorkerDiedError(_end(self.process.exitcode or 0))
        return self._answer is not None

    def death(self) -> WorkerDiedError | None:
        return self._answer if self.done() and isinstance(self._answer, WorkerDiedError) else None

    def result(self) -> Outcome:
        if not isinstance(self._answer, Outcome):
            self.process.join(_GRACE)
            raise self._answer or AssertionError("asked before it is done")
        outcome, self._answer, self.idle = self._answer, None, True
        return outcome


def _end(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the worker ended with status {exitcode}; standard error may tell why"
    names = {number.value: number.name for number in signal.Signals}
    hint = "; running out of memory is a likely cause" if exitcode == -signal.SIGKILL else ""
    return f"the worker was killed by {names.get(-exitcode, f'signal {-exitcode}')}{hint}"


def _serve(pipe: Connection, parent: int) -> None:
    """Do tasks until the parent hangs up; tell it whatever else ends this."""
    # Ctrl-C reaches every process of the terminal; an idle worker leaves it to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    status = 0
    try:
        _do_tasks(pipe)
    except BaseException as error:
        status = _status(error)
        death = WorkerDiedError(f"the worker ended with status {status}: {one_line(error)}")
        death.add_note(format_exc())
        with suppress(OSError):
            pipe.send(death)
    # Libraries' semaphores are given back before; taking the interpreter apart takes a second more.
    Finalize(None, os._exit, args=(status,), exitpriority=-1)


def _do_tasks(pipe: Connection) -> None:
    # What every task needs is imported while the parent looks after the store.
    read_shared_code()
    import_module("harness.experiment")
    import_mlflow()

    def tell(stage: str) -> None:
        with suppress(OSError):  # the parent is gone; that is for the thread to see
            pipe.send(stage)

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(task, Stages(tell)))


def _status(error: BaseException) -> int:
    """Return the exit status of a process that such an error ends."""
    code = error.code if isinstance(error, SystemExit) else 1
    return code & 0xFF if isinstance(code, int) else int(code is not None)


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
