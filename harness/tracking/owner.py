"""Which process writes a run, and whether it still lives: a dead process leaves its run RUNNING."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HOST = "process.host"
MACHINE = "process.machine"
PID = "process.pid"
STARTED = "process.started"
HEARTBEAT = "process.heartbeat"
SLURM_JOB = "process.slurm_job"
SLURM_RESTARTS = "process.slurm_restarts"
BEAT = 60.0
"""Seconds between two signs of life of a run."""
SILENCE = 10 * BEAT
"""Seconds without a sign of life after which a run of another machine is dead."""


def this_process() -> dict[str, str]:
    """Return the tags that name this process.

    A process is its machine, its number and the moment it started: numbers are given again, and
    two containers may share a host's name. Only processes of the same `machine` see each other.
    """
    return process(os.getpid()) | _slurm_job() | {HOST: platform.node(), HEARTBEAT: now()}


def process(pid: int) -> dict[str, str]:
    """Return the tags that tell a process of this machine from every other one."""
    return {MACHINE: _machine(), PID: str(pid), STARTED: started(pid) or ""}


def is_this_process(tags: Mapping[str, str]) -> bool:
    """Tell whether a run's tags name this process."""
    return process(os.getpid()).items() <= tags.items()


def alive(tags: Mapping[str, str]) -> bool:
    """Tell whether the process that a run's tags name still lives.

    On this machine the system knows it at once. Of another machine only the last sign of life
    is known; the clocks of both may differ by minutes. A job that Slurm has started again was dead
    on the other machine.
    """
    if tags.get(MACHINE) == _machine():
        return started(int(tags[PID])) == tags[STARTED]
    own = _slurm_job()
    if own and own[SLURM_JOB] == tags.get(SLURM_JOB):
        return own[SLURM_RESTARTS] == tags[SLURM_RESTARTS] and _beats(tags)
    return _beats(tags)


def _beats(tags: Mapping[str, str]) -> bool:
    return time.time() - float(tags.get(HEARTBEAT, 0)) < SILENCE


def _slurm_job() -> dict[str, str]:
    """Return the tags of the Slurm job that this process belongs to, if it does."""
    job = os.environ.get("SLURM_JOB_ID")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return {} if job is None else {SLURM_JOB: job, SLURM_RESTARTS: restarts}


def now() -> str:
    """Return this moment as a sign of life: seconds since 1970."""
    return str(round(time.time()))


class Heartbeat:
    """Calls a function every minute from a thread of its own, until stopped.

    Parameters
    ----------
    beat : callable
        Its errors are ignored: a store that is down must not end the job.
    """

    def __init__(self, beat: Callable[[], object]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Stop calling."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            try:
                self._beat()
            except Exception:  # noqa: S112 - the next beat may succeed
                continue


def _machine() -> str:
    """Return what two processes have in common exactly if they see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return platform.node()
    return f"{boot.read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"


def started(pid: int) -> str | None:
    """Return when a process of this machine started, in its own unit; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while it is read
        return None if Path("/proc/self").exists() else _exists(pid)
    # The name in the second field may hold spaces and brackets; Z is dead but not yet reaped.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str | None:
    """Tell by a signal that does nothing, where there is no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
