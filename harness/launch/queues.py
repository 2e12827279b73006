"""A process of its own for each task, started by submitit: on this machine or by Slurm."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.launch.loop import Pending, WorkerDiedError
from harness.outcome import Outcome
from harness.threads import shared
from harness.work import Task, perform

if TYPE_CHECKING:
    import submitit

_GRACE = 10.0
"""Seconds that a job has for closing its run."""
_POLL = 0.02
"""Seconds between two looks at what is at work."""
_DEVICES = "CUDA_VISIBLE_DEVICES"


class Queue(ABC):
    """Submits each task as a job of its own.

    Parameters
    ----------
    executor : submitit.Executor
        How jobs are submitted.
    size : int
        How many are in the queue at once.

    Attributes
    ----------
    sharers : int
        How many jobs divide the cores of this machine among them.
    """

    def __init__(self, executor: submitit.Executor, size: int) -> None:
        self.size = size
        self.sharers = 1
        self._executor = executor
        self._jobs: list[Any] = []

    def submit(self, task: Task) -> Pending:
        """Submit the task."""
        self._jobs = [job for job in self._jobs if not job.done()]
        with shared(self.sharers):
            job = self._executor.submit(self.work(), task)
        self._jobs.append(job)
        return _Submitted(job, self.process(job))

    def wait(self) -> None:
        """Wait a moment: whether a job has ended stands in files."""
        time.sleep(_POLL)

    def stop(self) -> None:
        """Let the jobs close their runs, then cancel them."""
        jobs = [job for job in self._jobs if not job.done()]
        if jobs:
            self.interrupt(jobs)
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and not all(job.done() for job in jobs):
            time.sleep(0.1)
        for job in jobs:
            if not job.done():
                self.kill(job)

    def close(self) -> None:  # noqa: B027 - not abstract
        """Do nothing: a job's process ends with its task."""

    def work(self) -> Callable[[Task], Outcome]:
        """Return what a job does with its task."""
        return perform

    def process(self, job: Any) -> dict[str, str]:
        """Return the tags of a run that name a job's process, where nobody else would miss it."""
        return {}

    @abstractmethod
    def interrupt(self, jobs: Sequence[Any]) -> None:
        """Make jobs close their runs and end."""

    def kill(self, job: Any) -> None:
        """End a job that has not ended when it was interrupted."""
        job.cancel(check=False)


class LocalQueue(Queue):
    """A queue on this machine; jobs divide its cores among them.

    Parameters
    ----------
    folder : Path
        Where submitit keeps what it hands over, and the jobs' output.
    size : int
        How many jobs run at once.
    timeout_min : int
        Minutes after which a job is ended.
    """

    def __init__(self, folder: Path, size: int, *, timeout_min: int) -> None:
        from submitit import LocalExecutor

        executor = LocalExecutor(folder)
        executor.update_parameters(timeout_min=timeout_min)
        super().__init__(executor, size)
        self.sharers = size

    def submit(self, task: Task) -> Pending:
        """Submit the task, out of reach of the terminal's signals: those are for this process."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
        try:
            return super().submit(task)  # the new process inherits the mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def work(self) -> Callable[[Task], Outcome]:
        """Return what does a task with the devices that this process sees."""
        return partial(_seeing, os.environ.get(_DEVICES))

    def interrupt(self, jobs: Sequence[Any]) -> None:
        """Terminate the jobs; submitit's own way is SIGINT, and a second later SIGKILL."""
        for job in jobs:
            # Asked first: the number of a process that has been waited for is given again.
            if not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)

    def kill(self, job: Any) -> None:
        """Kill the job's own process, and the one that submitit starts to look after it."""
        keeper = int(job.job_id)
        children = Path(f"/proc/{keeper}/task/{keeper}/children")
        for pid in (*(children.read_text().split() if children.exists() else ()), keeper):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class _Submitted:
    """A submitted task."""

    def __init__(self, job: Any, process: dict[str, str]) -> None:
        self._job = job
        self._process = process

    def done(self) -> bool:
        return self._job.done()

    def result(self) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        try:
            return self._job.result()
        except UncompletedJobError as error:
            what = f"job {self._job.job_id} ended without a result, state {self._job.state}"
            where = f"{what}; its log is {self._job.paths.stderr}"
            raise WorkerDiedError(where, self._process) from error


def _seeing(devices: str | None, task: Task) -> Outcome:
    """Do a task; submitit would hide every GPU from it."""
    if devices is None:
        os.environ.pop(_DEVICES, None)
    else:
        os.environ[_DEVICES] = devices
    return perform(task)
