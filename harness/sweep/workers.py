"""Hand out tasks, to this process or to worker processes, and take back their outcomes."""
# ruff: noqa: D102 - see `Pool`

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
from typing import Any

from harness.provenance import read_shared_code
from harness.record import Outcome, Stages
from harness.sweep.task import Task, log_file, perform
from harness.system.signals import deferred
from harness.system.terminal import one_line
from harness.system.threads import shared
from harness.tracking.store import import_mlflow

GRACE = 10.0  # seconds that a worker has for closing its run before it is killed

log = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """A worker ended during a task; where it could send its traceback, that is a note."""


class Pool:
    """Does tasks, `size` of them at once."""

    size = 1

    def submit(self, task: Task) -> Any:
        """Begin a task; what is returned has `done()`, and `result()` as a future has it."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait until a task may have ended."""

    def stop(self) -> None:
        """End the tasks that have begun within seconds."""

    def close(self) -> None:
        """End the idle workers."""


class InProcess(Pool):
    """Does each task in this process when it is submitted; `watch` gets each stage's name."""

    def __init__(self, watch: Callable[[str], object]) -> None:
        self._watch = watch

    def submit(self, task: Task) -> Future[Outcome]:
        done: Future[Outcome] = Future()
        done.set_result(perform(task, Stages(self._watch)))
        return done


def run_tasks(
    tasks: Sequence[Task], pool: Pool, *, fail_fast: bool = False
) -> Generator[tuple[int, Outcome]]:
    """Do all tasks; yield the index and the outcome of each as it ends.

    A task whose process died has failed. With `fail_fast` nothing more comes after the first
    failure. Tasks that have begun when the generator is closed are stopped.
    """
    waiting = deque(range(len(tasks)))
    begun: dict[int, Any] = {}
    try:
        while waiting or begun:
            while waiting and len(begun) < pool.size:
                number = waiting.popleft()
                try:
                    begun[number] = pool.submit(tasks[number])
                except Exception as error:  # what cannot begin has failed
                    begun[number] = Future()
                    begun[number].set_exception(error)
            ended = [number for number, pending in begun.items() if pending.done()]
            for number in ended:
                outcome = _outcome(tasks[number], begun.pop(number))
                yield number, outcome
                if fail_fast and outcome.status == "failed":
                    return
            if not ended:
                pool.wait()
    finally:
        if begun:
            with deferred():
                pool.stop()


def _outcome(task: Task, pending: Any) -> Outcome:
    try:
        return pending.result()
    except Exception as error:
        with log_file(task.folder):
            log.info("%s failed", task.job, exc_info=error)
        return Outcome(str(task.job), "failed", reason=one_line(error))


class Processes(Pool):
    """Does tasks in worker processes, each kept for one task after another.

    The pools of the standard library and of joblib give up every task when one worker dies.
    Here each worker has a pipe of its own: its death costs its task, and the next task gets a
    new worker. What ends the first worker before it begins a task would end every other one: the
    tasks left fail at once.
    """

    def __init__(self, size: int, watch: Callable[[str], object]) -> None:
        self.size = size
        self._watch = watch
        self._workers: list[_Worker] = []
        self._began_a_task = False
        self._death: WorkerDiedError | None = None
        # One of them is sure to be needed; it imports while its parent opens the store.
        self._start_worker()

    def submit(self, task: Task) -> _Worker:
        self._drop_dead()
        for worker in self._workers:
            if worker.idle and worker.give(task):
                return worker
        if self._death is not None and not self._began_a_task:
            raise self._death.with_traceback(None)
        worker = self._start_worker()
        worker.give(task)
        return worker

    def wait(self) -> None:
        wait([worker.pipe for worker in self._workers if not worker.idle], timeout=1.0)

    def stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
            worker.idle = True
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # which ends an idle one
        end = time.monotonic() + GRACE
        for worker in self._workers:
            # An idle one has to clean up what libraries have opened.
            worker.process.join(max(0.0, end - time.monotonic()) if worker.idle else 0.0)
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def _start_worker(self) -> _Worker:
        with shared(self.size):
            self._workers.append(_Worker(self._on_stage))
        return self._workers[-1]

    def _on_stage(self, stage: str) -> None:
        self._began_a_task = True
        self._watch(stage)

    def _drop_dead(self) -> None:
        for worker in [one for one in self._workers if not one.process.is_alive()]:
            self._workers.remove(worker)
            # What kills one from outside need not meet the next.
            killed = worker.process.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
            if not killed and worker.done() and isinstance(worker.answer, WorkerDiedError):
                self._death = worker.answer


class _Worker:
    """A process, and the task that it does."""

    def __init__(self, on_stage: Callable[[str], None]) -> None:
        self._on_stage = on_stage
        self.answer: Outcome | WorkerDiedError | None = None
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
        """Read what the worker has sent; return whether its outcome, or its end, is among it."""
        dead = not self.process.is_alive()  # asked first: its last message may be in the pipe
        with suppress(EOFError, OSError):
            while self.answer is None and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, str):
                    self._on_stage(message)
                else:
                    self.answer = message
        if self.answer is None and dead:
            self.answer = WorkerDiedError(_ending(self.process.exitcode or 0))
        return self.answer is not None

    def result(self) -> Outcome:
        if not isinstance(self.answer, Outcome):
            self.process.join(GRACE)
            raise self.answer or AssertionError("asked before it is done")
        outcome, self.answer, self.idle = self.answer, None, True
        return outcome


def _ending(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the worker ended with status {exitcode}; standard error may say why"
    names = {number.value: number.name for number in signal.Signals}
    hint = "; running out of memory is a likely cause" if exitcode == -signal.SIGKILL else ""
    return f"the worker was killed by {names.get(-exitcode, f'signal {-exitcode}')}{hint}"


def _serve(pipe: Connection, parent: int) -> None:
    """Do tasks until the parent closes the pipe; send it whatever else ends this."""
    # Ctrl-C reaches every process of the terminal; an idle worker leaves it to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    status = 0
    try:
        _do_tasks(pipe)
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        status = code & 0xFF if isinstance(code, int) else int(code is not None)
        death = WorkerDiedError(f"the worker ended with status {status}: {one_line(error)}")
        death.add_note(format_exc())
        with suppress(OSError):
            pipe.send(death)
    # Libraries' semaphores are freed before; the interpreter's own clean-up takes a second more.
    Finalize(None, os._exit, args=(status,), exitpriority=-1)


def _do_tasks(pipe: Connection) -> None:
    # What every task needs is imported while the parent opens the store.
    read_shared_code()
    import_module("harness.experiment")
    import_mlflow()

    def send_stage(stage: str) -> None:
        with suppress(OSError):  # the parent is gone, which `_end_with` notices
            pipe.send(stage)

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(task, Stages(send_stage)))


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
