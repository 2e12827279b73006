"""A process of its own for each task, started by submitit: on this machine or by Slurm."""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    def __init__(self, executor: submitit.Executor, size: int, *, workers: int = 1) -> None:
        self.size = size
        self._workers = workers
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
        """Cancel the jobs: each closes its run."""
        for job in self._jobs:
            job.cancel(check=False)
        for job in self._jobs:
            with suppress(Exception):
                job.wait()

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
    return Queue(executor, size, workers=size)


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
    return Queue(executor, size)
