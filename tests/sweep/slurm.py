"""A real Slurm with one node on this machine: munged, slurmctld and slurmd, all in one folder."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=10
NodeName={host} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Say what is lacking for a Slurm of one's own, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd must be started by root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Slurm, and stop it at the end.

    Yields
    ------
    dict of str to str
        The environment with which Slurm's commands find it.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    config = folder / "slurm.conf"
    ports = {"controller": _free_port(), "node": _free_port()}
    config.write_text(_CONFIG.format(host=platform.node(), folder=folder, **ports))
    environment = os.environ | {"SLURM_CONF": str(config)}
    with ExitStack() as stack:
        for command in (_munged(folder), ["slurmctld", "-D"], ["slurmd", "-D"]):
            stack.enter_context(_running(command, folder, environment))
        _wait_for_node(environment)
        try:
            yield {"SLURM_CONF": str(config)}
        finally:
            _empty_queue(environment)


def _munged(folder: Path) -> list[str]:
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    places = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    # Forced, for the folder's parents may be open to others, which a real cluster's are not.
    return ["munged", "--foreground", "--force", *places, f"--log-file={folder}/munge.log"]


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with open(folder / f"{command[0]}.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _empty_queue(environment: dict[str, str]) -> None:
    """End every job: their processes would outlive the daemons."""
    subprocess.run(["scancel", "--me"], env=environment)
    for _ in range(60):
        command = ["squeue", "--noheader"]
        if not subprocess.run(command, env=environment, capture_output=True).stdout:
            return
        time.sleep(0.5)
    raise AssertionError("the queue does not become empty")


def _wait_for_node(environment: dict[str, str]) -> None:
    for _ in range(120):
        command = ["sinfo", "--noheader", "--format=%T"]
        state = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
        if state.strip() == "idle":
            return
        time.sleep(0.5)
    raise AssertionError("the node does not come up")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
