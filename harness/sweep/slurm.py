"""A Slurm job for each task, submitted by submitit, in a way that works without accounting."""
# ruff: noqa: D102 - see `Pool`

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import Job, SlurmExecutor
from submitit.core.utils import UncompletedJobError
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from harness.record import Outcome
from harness.sweep.task import Task, perform
from harness.sweep.workers import GRACE, Pool, WorkerDiedError

_INTERVAL = 10  # seconds between two questions to Slurm, once it has been asked a few times
_THREADS = "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}"


class SlurmQueue(Pool):
    """Submits each task as a job of its own, `size` of them at once.

    Every node must see `folder`, in which submitit keeps tasks, results and output. `parameters`
    are those of submitit's SlurmExecutor: what `sbatch` takes.
    """

    def __init__(self, folder: Path, size: int, *, parameters: Mapping[str, Any]) -> None:
        self.size = size
        self._executor = _Executor(folder)
        setup = [_THREADS, *(parameters.get("setup") or [])]
        self._executor.update_parameters(**dict(parameters) | {"setup": setup})
        self._jobs: list[Job[Outcome]] = []

    def submit(self, task: Task) -> Job[Outcome]:
        job = self._executor.submit(perform, task)
        self._jobs = [*self._unfinished(), job]
        return job

    def wait(self) -> None:
        time.sleep(0.02)  # whether a job has ended is seen in files

    def stop(self) -> None:
        # Slurm sends SIGTERM, and SIGKILL after its KillWait.
        command = ["scancel", *(job.job_id for job in self._unfinished())]
        if len(command) > 1:
            # All at once, and out of reach of a second Ctrl-C.
            subprocess.run(command, check=False, start_new_session=True)  # noqa: S603
        end = time.monotonic() + GRACE
        while time.monotonic() < end and self._unfinished():
            time.sleep(0.1)

    def _unfinished(self) -> list[Job[Outcome]]:
        return [job for job in self._jobs if not job.done()]


class _Watcher(SlurmInfoWatcher):
    """Asks `squeue`: submitit asks `sacct`, which a cluster without accounting lacks."""

    def _make_command(self) -> list[str]:
        return ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        text = string.decode() if isinstance(string, bytes) else string
        states = dict(line.strip().split("|") for line in text.splitlines())
        # Slurm forgets a job some minutes after its end.
        return {
            job: {"JobID": job, "State": states.get(job, "FORGOTTEN")} for job in self._registered
        }


class _Job(SlurmJob[Outcome]):
    watcher = _Watcher(delay_s=_INTERVAL)

    def result(self) -> Outcome:
        try:
            return super().result()
        except UncompletedJobError as error:
            what = f"job {self.job_id} ended without a result, state {self.state}"
            raise WorkerDiedError(f"{what}; its log is {self.paths.stderr}") from error


class _Executor(SlurmExecutor):
    job_class = _Job
