"""Several processes on this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from harness.launch.loop import Pending
from harness.outcome import Outcome
from harness.threads import shared
from harness.work import Task, perform

_GRACE = 10.0
"""Seconds that a worker has for closing its run before it is killed."""


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of a task: killed, crashed or out of memory."""


class Processes:
    """Does tasks in worker processes, each kept for one task after another.

    The pools of the standard library and of joblib give up every task when one worker dies.
    Here each worker has a pipe of its own: its death costs its task, and the next task gets a
    new worker.

    Parameters
    ----------
    size : int
        How many workers; they divide the cores among them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._workers: list[_Worker] = []

    def submit(self, task: Task) -> Pending:
        """Give the task to an idle worker."""
        self._workers = [worker for worker in self._workers if worker.process.is_alive()]
        worker = next((worker for worker in self._workers if worker.idle), None)
        if worker is None:
            with shared(self.size):
                worker = _Worker()
            self._workers.append(worker)
        worker.give(task)
        return worker

    def stop(self) -> None:
        """Let the workers close their runs, then kill them."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + _GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
        self._workers = []


class _Worker:
    """A process, and the task at work in it."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # A daemon: it is ended with this process, if this one ends in an orderly way.
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.idle = True

    def give(self, task: Task) -> None:
        self.idle = False
        self._pipe.send(task)

    def done(self) -> bool:
        return self._pipe.poll()

    def result(self) -> Outcome:
        try:
            outcome: Outcome = self._pipe.recv()
        except EOFError:
            self.process.join()
            raise WorkerDiedError(_end(self.process.exitcode or 0)) from None
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
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(perform(task))


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
