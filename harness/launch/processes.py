"""Several processes on this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import wait
from typing import Any

from harness.launch.loop import Pending
from harness.outcome import Outcome
from harness.threads import share
from harness.work import Task, perform

_GRACE = 10.0
"""Seconds that a worker has for closing its run before it is killed."""


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of a task: killed, crashed or out of memory."""


class Processes:
    """Does tasks in worker processes, each kept for one task after another.

    joblib's own pool gives up all its workers when one of them dies. So each worker here is a
    pool of one: its death costs its task, and the next task gets a new worker.

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
        self._workers = [worker for worker in self._workers if worker.usable()]
        worker = next((worker for worker in self._workers if worker.idle()), None)
        if worker is None:
            worker = _Worker(share(self.size))
            self._workers.append(worker)
        return worker.give(task)

    def stop(self) -> None:
        """Let the workers close their runs, then kill them."""
        for worker in self._workers:
            worker.terminate()
        wait([worker.task for worker in self._workers if worker.task], _GRACE)

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers = []


class _Worker:
    """One process and the task it was given last."""

    def __init__(self, environment: dict[str, str]) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.task: Any = None
        self._executor = ProcessPoolExecutor(
            1, env=environment, initializer=_end_with, initargs=(os.getpid(),)
        )
        self._pid = self._executor.submit(os.getpid)

    def give(self, task: Task) -> Pending:
        self.task = self._executor.submit(perform, task)
        return _Given(self.task)

    def idle(self) -> bool:
        return self.task.done()

    def usable(self) -> bool:
        return not (self.task.done() and _died(self.task))

    def terminate(self) -> None:
        if self._pid.done() and not _died(self._pid) and not self.task.done():
            os.kill(self._pid.result(), signal.SIGTERM)

    def kill(self) -> None:
        self._executor.shutdown(wait=False, kill_workers=True)


class _Given:
    """A task given to a worker."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> Outcome:
        if _died(self._future):
            raise WorkerDiedError("the worker was killed or ran out of memory")
        return self._future.result()


def _died(future: Any) -> bool:
    from joblib.externals.loky import BrokenProcessPool

    return isinstance(future.exception(), BrokenProcessPool)


def _end_with(parent: int) -> None:
    """Let this worker end as soon as its parent is gone, whatever it is doing."""
    # Ctrl-C reaches every process of the terminal; an idle worker leaves it to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
