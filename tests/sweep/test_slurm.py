"""A sweep through a real Slurm: `sbatch`, a cancelled job, a killed one, and the rest again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from harness.tracking.contents import PID
from tests.sweep import slurm
from tests.sweep.conftest import as_process, numbers, runs, start, statuses, wait_until

SWEEP = (
    *("-m", "dataset=btad", "category=01,02,03", "seed=1,2"),
    *("hydra/launcher=submitit_slurm", "hydra.launcher.max_jobs=2"),
    *("hydra.launcher.parameters.cpus_per_task=1", "hydra.launcher.parameters.mem=null"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing())),
]


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


def at_work(process, client):
    """Wait until two jobs are running."""
    wait_until(lambda: statuses(client)["RUNNING"] == 2 or process.poll() is not None)
    assert process.poll() is None, Path("output.txt").read_text(encoding="utf-8")


def cancel_one():
    """Cancel a job that is running, as its owner would."""
    command = ["squeue", "--me", "--noheader", "--states=RUNNING", "--format=%i"]
    job = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    subprocess.run(["scancel", job], check=True)
    return job


def test_cancelled_and_killed_jobs_cost_themselves_only(cluster, client, monkeypatch):
    monkeypatch.setenv("TINY_PAUSE", "1")
    process = start(*SWEEP)
    at_work(process, client)
    cancelled = cancel_one()
    wait_until(lambda: statuses(client)["KILLED"] == 1)
    [victim, *_] = wait_until(lambda: [r for r in runs(client) if r.info.status == "RUNNING"])
    os.kill(int(victim.data.tags[PID]), signal.SIGKILL)

    assert process.wait(600) == 1
    text = Path("output.txt").read_text(encoding="utf-8")
    assert f"WorkerDiedError: job {cancelled} ended without a result, state CANCELLED" in text
    assert f"{victim.info.run_name}: failed: WorkerDiedError: job " in text
    assert "2 of 6 jobs failed" in text
    assert statuses(client) == {"FINISHED": 4, "KILLED": 2}

    monkeypatch.delenv("TINY_PAUSE")
    again = as_process(*SWEEP)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 4
    assert len(numbers(client)) == 6


def test_interrupted_sweep_cancels_its_jobs(cluster, client, monkeypatch):
    monkeypatch.setenv("TINY_PAUSE", "1")
    process = start(*SWEEP)
    at_work(process, client)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert statuses(client) == {"KILLED": 2}
    command = ["squeue", "--me", "--noheader"]
    wait_until(lambda: not subprocess.run(command, capture_output=True, check=True).stdout)


def test_jobs_outlive_the_process_that_submitted_them(cluster, client, monkeypatch):
    monkeypatch.setenv("TINY_PAUSE", "1")
    process = start(*SWEEP)
    at_work(process, client)
    process.kill()
    process.wait()
    wait_until(lambda: statuses(client) == {"FINISHED": 2})
    again = as_process(*SWEEP)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 2
    assert statuses(client) == {"FINISHED": 6}
