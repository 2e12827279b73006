"""Slurm's queue, asked in a way that works without accounting; needs submitit."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from harness.launch.queues import Queue
from harness.outcome import Outcome

_LOOK = 10
"""Seconds between two looks at Slurm's queue, once it has been asked a few times."""
_THREADS = "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}"


class SlurmQueue(Queue):
    """A queue of a Slurm cluster; every node must see `folder`.

    Parameters
    ----------
    folder : Path
        Where submitit keeps what it hands over, and the jobs' output.
    size : int
        How many jobs are in Slurm's queue at once.
    parameters : mapping of str to object
        Of submitit's SlurmExecutor: what `sbatch` takes.
    """

    def __init__(self, folder: Path, size: int, *, parameters: Mapping[str, Any]) -> None:
        executor = _Executor(folder)
        setup = [_THREADS, *(parameters.get("setup") or [])]
        executor.update_parameters(**dict(parameters) | {"setup": setup})
        super().__init__(executor, size)

    def interrupt(self, jobs: Sequence[Any]) -> None:
        """Cancel the jobs: Slurm sends SIGTERM, and SIGKILL after its KillWait."""
        # All at once, and out of reach of a second Ctrl-C.
        command = ["scancel", *(job.job_id for job in jobs)]
        subprocess.run(command, check=False, start_new_session=True)  # noqa: S603


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
    watcher = _Watcher(delay_s=_LOOK)


class _Executor(SlurmExecutor):
    job_class = _Job
