"""Worker processes on this machine, one or several."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize

from harness.code import read_shared_code
from harness.launch.loop import Pending, WorkerDiedError
from harness.outcome import Outcome
from harness.stages import Stages
from harness.threads import shared
from harness.tracking.store import import_mlflow
from harness.work import Task, perform

_GRACE = 10.0
"""Seconds that a worker has for closing its run before it is killed."""


class Processes:
    """Does tasks in worker processes, each kept for one task after another.

    The pools of the standard library and of joblib give up every task when one worker dies.
    Here each worker has a pipe of its own: its death costs its task, and the next task gets a
    new worker.

    Parameters
    ----------
    size : int
        How many workers; they divide the cores among them.
    watch : callable, optional
        Called with the name of each stage of a job when it begins.
    """

    def __init__(self, size: int, watch: Callable[[str], object] | None = None) -> None:
        self.size = size
        self._watch = watch
        self._workers: list[_Worker] = []
        # One of them is sure to be needed; it imports while its parent looks after the store.
        self._hire()

    def submit(self, task: Task) -> Pending:
        """Give the task to an idle worker."""
        self._workers = [worker for worker in self._workers if worker.process.is_alive()]
        for worker in self._workers:
            if worker.idle:
                # It may have died just now.
                with suppress(OSError):
                    worker.give(task)
                    return worker
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
        end = time.monotonic() + _GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
        self.close()

    def close(self) -> None:
        """Let idle workers go, and kill the others."""
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _hire(self) -> _Worker:
        with shared(self.size):
            worker = _Worker(self._watch)
        self._workers.append(worker)
        return worker


class _Worker:
    """A process, and the task at work in it."""

    def __init__(self, watch: Callable[[str], object] | None) -> None:
        self._watch = watch
        self._outcome: Outcome | None = None
        self._dead = False
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # A daemon: it is ended with this process, if this one ends in an orderly way.
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.idle = True

    def give(self, task: Task) -> None:
        self.pipe.send(task)
        self.idle = False

    def dismiss(self) -> None:
        """Hang up, which an idle worker takes for the end of its work."""
        self.pipe.close()

    def end(self) -> None:
        if self.idle:  # it has to clear up what libraries have opened
            self.process.join(_GRACE)
        self.process.kill()
        self.process.join()

    def done(self) -> bool:
        """Take what the worker has sent; tell whether its outcome, or its end, is among it."""
        try:
            while self._outcome is None and self.pipe.poll():
                self._take(self.pipe.recv())
        except (EOFError, OSError):
            self._dead = True
        return self._dead or self._outcome is not None

    def _take(self, message: Outcome | str) -> None:
        if isinstance(message, Outcome):
            self._outcome = message
        elif self._watch is not None:
            self._watch(message)

    def result(self) -> Outcome:
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            self.process.join()
            raise WorkerDiedError(_end(self.process.exitcode or 0))
        self.idle = True
        return outcome


def _end(exitcode: int) -> str:
    if exitcode < 0:
        return f"the worker was killed by {signal.Signals(-exitcode).name}"
    return f"the worker ended with status {exitcode}"


def _serve(pipe: Connection, parent: int) -> None:
    """Do tasks, until there is no parent to do them for."""
    # Ctrl-C reaches every process of the terminal; an idle worker leaves it to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Libraries' semaphores are given back before; taking the interpreter apart takes a second more.
    Finalize(None, os._exit, args=(0,), exitpriority=-1)
    _get_ready()

    def tell(stage: str) -> None:
        with suppress(OSError):  # the parent is gone; that is for the thread to see
            pipe.send(stage)

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(task, Stages(tell)))


def _get_ready() -> None:
    """Import what every task needs, while the parent looks after the store."""
    read_shared_code()
    import_module("harness.evaluate")
    import_mlflow()


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
