"""Sweeps that are killed: the same command again does the rest."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from harness.config import TrackingConfig
from harness.tracking import open_tracker, read_runs, read_scores
from harness.tracking.owner import (
    HEARTBEAT,
    HOST,
    MACHINE,
    PID,
    SLURM_JOB,
    SLURM_RESTARTS,
    STARTED,
    process,
    this_process,
)
from harness.tracking.store import connect, store_uri
from tests.sweep.conftest import (
    LAUNCHERS,
    as_process,
    in_process,
    numbers,
    runs,
    start,
    statuses,
    wait_until,
)

TWELVE = ("-m", "dataset=visa", "category=glob(*)")
HOST_TAGS = {HOST: "here", HEARTBEAT: "0"}
ONE = ("dataset=btad", "category=01", "localizer=none")


def undisturbed():
    """Run the twelve jobs in a store of their own; return their numbers and how long all took."""
    elsewhere = ("features.cache=apart/cache", "tracking.uri=sqlite:///apart/mlflow.db")
    started = time.monotonic()
    assert as_process(*TWELVE, *elsewhere).status == 0
    seconds = time.monotonic() - started
    return results("sqlite:///apart/mlflow.db"), seconds


def results(uri):
    """The metrics and the scores of each finished run by identity; no identity twice."""
    measured = numbers(connect(uri))
    finished = [run for run in read_runs(uri) if run.status == "finished"]
    return {
        run.identity: (measured[run.identity], read_scores(run.run_id, uri)) for run in finished
    }


def n_opened():
    """How many runs the store has, asked without making one."""
    try:
        with closing(sqlite3.connect("file:runs/mlflow.db?mode=ro", uri=True)) as store:
            return store.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.OperationalError:  # no store yet, or no tables
        return 0


def kill_at(sweep, moment, *, work, group):
    """Kill a sweep so many seconds after its start, but when it has worked for `work` at last."""
    before = n_opened()
    process = start(*sweep)
    end = time.monotonic() + moment
    working = False
    while time.monotonic() < end:
        if not working and n_opened() > before:
            working, end = True, min(end, time.monotonic() + work)
        time.sleep(0.01)
    assert process.poll() is None, "the sweep ended before it was killed"
    # The whole group; or the process alone, whose workers have to notice by themselves.
    os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
    process.wait()


# A job waits for at least 2.4 s in its eight batches of four images, 29 s in all. Ten times 2 s of
# work are less, so no attempt finds everything done; four workers wait four times as long.
@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "pause"), [("worker", 0.3), ("joblib", 1.2)])
def test_sweep_killed_at_ten_random_moments(empty_folder, launcher, pause, monkeypatch):
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"to repeat it: KILL_SEED={seed}")  # noqa: T201
    chance = random.Random(seed)
    expected, seconds = undisturbed()
    assert len(expected) == 12
    monkeypatch.setenv("TINY_PAUSE", str(pause))
    sweep = (*TWELVE, *LAUNCHERS[launcher])

    for _ in range(10):
        moment = chance.uniform(0.2, seconds + 2)
        kill_at(sweep, moment, work=chance.uniform(0, 2), group=chance.random() < 0.5)
    monkeypatch.setenv("TINY_PAUSE", "0")
    last = as_process(*sweep)

    assert last.status == 0, last.out + last.err
    client = connect(store_uri())
    assert results(store_uri()) == expected
    assert statuses(client)["FINISHED"] == 12
    assert set(statuses(client)) <= {"FINISHED", "KILLED"}
    # Half-written entries too, whose names begin with a dot.
    assert not list((empty_folder / "runs" / "spool").iterdir())
    assert as_process(*sweep).out.count(": skipped (run ") == 12


def test_killed_process_costs_its_own_job_only(client, monkeypatch):
    monkeypatch.setenv("TINY_PAUSE", "0.3")  # a job that is nearly done would be finished
    sweep = ("-m", "dataset=btad", "category=01,02,03")
    process = start(*sweep)
    wait_until(lambda: statuses(client) == {"FINISHED": 1, "RUNNING": 1})
    process.kill()
    process.wait()
    victim, finished = runs(client)
    assert (victim.info.status, finished.info.status) == ("RUNNING", "FINISHED")

    monkeypatch.delenv("TINY_PAUSE")
    again = as_process(*sweep)

    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 1
    assert f"skipped (run {finished.info.run_id}, commit " in again.out
    assert statuses(client) == {"FINISHED": 3, "KILLED": 1}
    assert client.get_run(victim.info.run_id).info.status == "KILLED"
    assert len(numbers(client)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["worker", "joblib"])
def test_killed_worker_costs_its_own_job_only(client, pause, launcher):
    sweep = ("-m", "dataset=btad", "category=01,02,03", "seed=1,2", *LAUNCHERS[launcher])
    process = start(*sweep)
    [victim, *_] = wait_until(lambda: runs(client))
    os.kill(int(victim.data.tags[PID]), signal.SIGKILL)

    assert process.wait(400) == 1
    text = Path("output.txt").read_text(encoding="utf-8")
    assert f"{victim.info.run_name}: failed: WorkerDiedError" in text
    assert "1 of 6 jobs failed" in text
    assert statuses(client) == {"FINISHED": 5, "KILLED": 1}
    again = as_process(*sweep)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 5
    assert len(numbers(client)) == 6


def leave_running(client, tags):
    """A run of ONE's identity that is still open, as another process would have left it."""
    assert in_process(*ONE).status == 0
    [finished] = runs(client)
    client.delete_run(finished.info.run_id)
    kept = {k: v for k, v in finished.data.tags.items() if not k.startswith("mlflow.")}
    run = client.create_run(finished.info.experiment_id, tags=kept | tags)
    return run.info.run_id


def dead(**changes):
    tags = this_process()
    return tags | {PID: "999999999"} | changes


def test_run_left_by_a_dead_process_is_done_again(client):
    left = leave_running(client, dead())
    assert in_process(*ONE).status == 0
    assert client.get_run(left).info.status == "KILLED"
    assert "ended without closing the run" in client.get_run(left).data.tags["error.message"]
    assert statuses(client) == {"FINISHED": 1, "KILLED": 1}


def test_number_of_a_process_given_again_does_not_pass_for_it(client):
    left = leave_running(client, this_process() | {STARTED: "1"})
    assert in_process(*ONE).status == 0
    assert client.get_run(left).info.status == "KILLED"


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_run_at_work_is_left_alone_and_is_no_success(client, mode):
    left = leave_running(client, HOST_TAGS | process(os.getppid()))
    ended = in_process(*mode, *ONE)
    assert f"busy: runs now as run {left}" in ended.out
    assert "1 of 1 jobs are at work in other processes" in ended.err
    assert ended.status == 75
    assert statuses(client) == {"RUNNING": 1}


def test_run_that_this_process_has_not_closed_is_closed_at_the_end(client):
    """As after an interruption in the middle of opening it."""
    left = leave_running(client, this_process())
    assert in_process(*ONE, "seed=7").status == 0
    assert client.get_run(left).info.status == "KILLED"


@pytest.mark.parametrize(("age", "status"), [(30, "RUNNING"), (3600, "KILLED")])
def test_run_of_another_machine_lives_by_its_heartbeat(client, age, status):
    tags = dead(**{MACHINE: "another", HEARTBEAT: str(time.time() - age)})
    left = leave_running(client, tags)
    assert in_process(*ONE).status == (75 if status == "RUNNING" else 0)
    assert client.get_run(left).info.status == status


@pytest.mark.parametrize(("restarts", "status"), [("0", "KILLED"), ("1", "RUNNING")])
def test_job_that_slurm_starts_again_was_dead_on_the_other_machine(
    client, monkeypatch, restarts, status
):
    beats = {MACHINE: "another", HEARTBEAT: str(time.time() - 30)}
    left = leave_running(client, dead(**beats, **{SLURM_JOB: "12", SLURM_RESTARTS: restarts}))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    in_process(*ONE)
    assert client.get_run(left).info.status == status


def test_fail_fast_stops_at_the_first_failure(client):
    sweep = ("-m", "dataset=btad", "category=01,02,03", "dataset.root=nowhere", "fail_fast=true")
    ended = in_process(*sweep)
    assert ended.status == 1
    assert statuses(client) == {"FAILED": 1}
    assert ended.out.count("│ stopped") == 2


def test_recovery_without_runs_changes_nothing(client):
    open_tracker(TrackingConfig()).recover()
    assert not runs(client)
