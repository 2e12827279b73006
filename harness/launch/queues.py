"""A process of its own for each task, started by submitit: on this machine or by Slurm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.launch.loop import Pending
from harness.launch.processes import WorkerDiedError
from harness.outcome import Outcome
from harness.threads import shared
from harness.work import Task, perform

if TYPE_CHECKING:
    import submitit

_GRACE = 10.0
"""Seconds that a job has for closing its run."""
_LOOK = 10
"""Seconds between two looks at Slurm's queue, once it has been asked a few times."""


class Queue:
    """Submits each task as a job of its own.

    Parameters
    ----------
    executor : submitit.Executor
        How jobs are submitted.
    size : int
        How many are in the queue at once.
    workers : int
        How many divide the cores of this machine among them.
    interrupt : callable
        Makes a job close its run and end.
    """

    def __init__(
        self,
        executor: submitit.Executor,
        size: int,
        *,
        workers: int,
        interrupt: Callable[[Any], object],
    ) -> None:
        self.size = size
        self._workers = workers
        self._interrupt = interrupt
        self._executor = executor
        self._jobs: list[Any] = []

    def submit(self, task: Task) -> Pending:
        """Submit the task."""
        self._jobs = [job for job in self._jobs if not job.done()]
        with shared(self._workers):
            job = self._executor.submit(perform, task)
        self._jobs.append(job)
        return _Submitted(job)

    def stop(self) -> None:
        """Let the jobs close their runs, then cancel them."""
        for job in self._jobs:
            self._interrupt(job)
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and not all(job.done() for job in self._jobs):
            time.sleep(0.1)
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)

    def close(self) -> None:
        """Do nothing: a job's process ends with its task."""


class _Submitted:
    """A submitted task."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def done(self) -> bool:
        return self._job.done()

    def result(self) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        try:
            return self._job.result()
        except UncompletedJobError as error:
            what = f"job {self._job.job_id} ended without a result, state {self._job.state}"
            raise WorkerDiedError(f"{what}; its log is {self._job.paths.stderr}") from error


def local_queue(folder: Path, size: int, *, timeout_min: int) -> Queue:
    """Return a queue on this machine; jobs divide its cores among them.

    Parameters
    ----------
    folder : Path
        Where submitit keeps what it hands over, and the jobs' output.
    size : int
        How many jobs run at once.
    timeout_min : int
        Minutes after which a job is ended.
    """
    from submitit import LocalExecutor

    executor = LocalExecutor(folder)
    executor.update_parameters(timeout_min=timeout_min)
    return Queue(executor, size, workers=size, interrupt=_terminate)


def slurm_queue(folder: Path, size: int, *, parameters: Mapping[str, Any]) -> Queue:
    """Return a queue of a Slurm cluster; every node must see `folder`.

    Parameters
    ----------
    folder : Path
        Where submitit keeps what it hands over, and the jobs' output.
    size : int
        How many jobs are in Slurm's queue at once.
    parameters : mapping of str to object
        Of submitit's SlurmExecutor: what `sbatch` takes.
    """
    from submitit import SlurmExecutor
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Watcher(SlurmInfoWatcher):
        """Asks `squeue`: submitit asks `sacct`, which a cluster without accounting lacks."""

        def _make_command(self) -> list[str]:
            return ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string.decode() if isinstance(string, bytes) else string
            states = dict(line.strip().split("|") for line in text.splitlines())
            # Slurm forgets a job some minutes after its end.
            return {
                job: {"JobID": job, "State": states.get(job, "FORGOTTEN")}
                for job in self._registered
            }

    class Job(SlurmJob[Outcome]):
        watcher = Watcher(delay_s=_LOOK)

    class Executor(SlurmExecutor):
        job_class = Job

    executor = Executor(folder)
    executor.update_parameters(**parameters)
    return Queue(executor, size, workers=1, interrupt=_cancel)


def _terminate(job: Any) -> None:
    # submitit's own way is SIGINT, and a second later SIGKILL.
    with suppress(ProcessLookupError):
        os.kill(int(job.job_id), signal.SIGTERM)


def _cancel(job: Any) -> None:
    # Slurm sends SIGTERM, and SIGKILL after its KillWait.
    job.cancel(check=False)
