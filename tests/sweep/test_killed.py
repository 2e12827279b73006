"""Sweeps that are killed: the same command again does the rest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import pytest

from harness.config import TrackingConfig
from harness.system import locks
from harness.system.locks import JobLocks
from harness.system.signals import Interrupted
from harness.tracking import open_tracker, read_runs, read_scores
from harness.tracking.__main__ import main as tracking
from harness.tracking.contents import IDENTITY, LOCKS, PID
from harness.tracking.store import connect, store_uri
from harness.tracking.tracker import MlflowTracker
from tests.sweep.conftest import (
    LAUNCHERS,
    as_process,
    command_line,
    in_process,
    numbers,
    runs,
    start,
    statuses,
    wait_until,
)

TWELVE = ("-m", "dataset=visa", "category=glob(*)")
ONE = ("dataset=btad", "category=01", "localizer=none")


@cache
def undisturbed():
    """Run the twelve jobs in a store of their own; return their numbers and how long all took."""
    uri = f"sqlite:///{Path('apart').resolve()}/mlflow.db"  # clients are kept by address
    elsewhere = ("features.cache=apart/cache", f"tracking.uri={uri}")
    started = time.monotonic()
    assert as_process(*TWELVE, *elsewhere).status == 0
    seconds = time.monotonic() - started
    return results(uri), seconds


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
    kill(process, group=group)


def kill(process, *, group):
    """Kill the whole group, or the process alone, whose workers have to notice by themselves."""
    with suppress(ProcessLookupError):
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
    # No half-written entries either, whose names begin with a dot.
    outbox = empty_folder / "runs" / f"outbox-{os.getuid()}"
    assert [path.name for path in outbox.iterdir()] in ([], [".lock"])
    assert as_process(*sweep).out.count(": skipped (run ") == 12


@pytest.mark.slow
def test_two_sweeps_at_once_killed_at_twenty_random_moments(empty_folder, monkeypatch):
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"to repeat it: KILL_SEED={seed}")  # noqa: T201
    chance = random.Random(seed)
    expected, _ = undisturbed()
    monkeypatch.setenv("TINY_PAUSE", "0.5")
    sweeps = [TWELVE, (*TWELVE, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")]
    processes = [start(*sweep) for sweep in sweeps]
    for _ in range(20):
        time.sleep(chance.uniform(0.5, 8))
        victim = chance.randrange(2)
        kill(processes[victim], group=chance.random() < 0.5)
        processes[victim] = start(*sweeps[victim])
    for process in processes:
        kill(process, group=True)
    monkeypatch.setenv("TINY_PAUSE", "0")
    last = as_process(*TWELVE)

    assert last.status == 0, last.out + last.err
    assert results(store_uri()) == expected
    assert statuses(connect(store_uri()))["FINISHED"] == 12
    assert set(statuses(connect(store_uri()))) <= {"FINISHED", "KILLED"}


@pytest.mark.slow
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
    again = in_process(*sweep)

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
    again = in_process(*sweep)
    assert again.status == 0, again.out + again.err
    assert again.out.count(": skipped (run ") == 5
    assert len(numbers(client)) == 6


def leave_running(client, **tags):
    """A run of ONE's identity that is still open, as a process that died would have left it."""
    assert in_process(*ONE).status == 0
    [finished] = [run for run in runs(client) if run.info.status == "FINISHED"]
    client.delete_run(finished.info.run_id)
    kept = {k: v for k, v in finished.data.tags.items() if not k.startswith("mlflow.")}
    run = client.create_run(finished.info.experiment_id, tags=kept | tags, run_name="left")
    return run.info.run_id


def running_elsewhere(client, run_id):
    """Hold the lock of a run's job, as another process does."""
    return JobLocks(Path("runs/locks")).hold(client.get_run(run_id).data.tags[IDENTITY])


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)


@pytest.mark.parametrize("lost", [None, "process.pid", "process.host"])
def test_run_left_by_a_dead_process_is_done_again(client, lost):
    left = leave_running(client)
    if lost is not None:
        client.delete_tag(left, lost)
    assert in_process(*ONE).status == 0
    assert client.get_run(left).info.status == "KILLED"
    assert "ended without closing the run" in client.get_run(left).data.tags["error.message"]
    assert statuses(client) == {"FINISHED": 1, "KILLED": 1}


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_running_job_is_left_alone_and_is_no_success(client, impatient, mode):
    left = leave_running(client)
    with running_elsewhere(client, left):
        ended = in_process(*mode, *ONE)
    assert f"busy: running elsewhere, in process {os.getpid()} of " in ended.out
    assert "1 of 1 jobs are running in other processes" in ended.err
    assert ended.status == 75
    assert statuses(client) == {"RUNNING": 1}


def test_whether_a_process_lives_is_asked_of_no_other_source(client, impatient, monkeypatch):
    """/proc may hide the processes of others, and clocks may differ by hours."""
    read = Path.read_text
    hidden = Path("/proc")

    def refuse(path, *arguments, **keywords):
        if path.is_relative_to(hidden) and "self" not in path.parts:
            raise PermissionError(path)
        return read(path, *arguments, **keywords)

    left = leave_running(client, **{PID: "999999999", "process.heartbeat": "0"})
    monkeypatch.setattr(Path, "read_text", refuse)
    with running_elsewhere(client, left):
        assert in_process(*ONE, "seed=7").status == 0
        assert client.get_run(left).info.status == "RUNNING"
    assert in_process(*ONE, "seed=7").status == 0
    assert client.get_run(left).info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts another /proc")
@pytest.mark.parametrize("hidepid", [1, 2])
def test_processes_that_another_user_cannot_see_are_alive(
    empty_folder, datasets, hidepid, monkeypatch
):
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    monkeypatch.chdir(place)
    monkeypatch.setenv("DFKDE_DATA", str(shutil.copytree(datasets, place / "data")))
    client = connect(store_uri())
    left = leave_running(client)
    subprocess.run(["chmod", "-R", "a+rwX", place], check=True)
    mount = f"mount -t proc -o hidepid={hidepid} proc /proc"
    user = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"'
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mount} && {user}"]
    command = [*inside, "-", *command_line(*ONE), "features.cache=theirs"]
    with running_elsewhere(client, left):
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 75, ended.stdout + ended.stderr
        assert f"running elsewhere, in process {os.getpid()} of " in ended.stdout
        assert client.get_run(left).info.status == "RUNNING"
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert client.get_run(left).info.status == "KILLED"
    shutil.rmtree(place)


def test_run_of_another_machine_is_closed_when_its_job_is_finished_here(client):
    """Nobody here can tell whether it lives: it has another folder of locks."""
    left = leave_running(client, **{LOCKS: "another"})
    assert in_process(*ONE, "seed=7").status == 0
    assert client.get_run(left).info.status == "RUNNING"
    assert in_process(*ONE).status == 0
    [done] = [run for run in runs(client, seed="42") if run.info.status == "FINISHED"]
    assert client.get_run(left).info.status == "KILLED"
    message = client.get_run(left).data.tags["error.message"]
    assert message.endswith(f"its job was finished as run {done.info.run_id}")


def test_runs_that_nobody_here_can_judge_are_closed_by_name(client, impatient, capsys):
    own = leave_running(client)
    found = client.get_run(own)
    elsewhere = {k: v for k, v in found.data.tags.items() if k != "mlflow.runName"}
    tags = elsewhere | {LOCKS: "another"}
    left = client.create_run(found.info.experiment_id, tags=tags, run_name="left").info.run_id
    with running_elsewhere(client, own):
        assert tracking(["close", left, own, "none"]) == 1
    lines = capsys.readouterr()
    assert f"{left} closed: left, process " in lines.out
    assert f"{own} still running: left, process " in lines.out
    assert lines.err.count("must be the id of an open run whose process has ended") == 2
    assert tracking(["close"]) == 0
    assert capsys.readouterr().out.startswith(f"{own} open: left, process ")
    assert {client.get_run(i).info.status for i in (left, own)} == {"KILLED", "RUNNING"}


def test_fail_fast_stops_at_the_first_failure(client, broken):
    sweep = ("-m", "dataset=btad", "category=01,02,03", f"dataset.root={broken}", "fail_fast=true")
    ended = in_process(*sweep)
    assert ended.status == 1
    assert statuses(client) == {"FAILED": 1}
    assert ended.out.count("│ stopped") == 2


def test_recovery_without_runs_changes_nothing(client):
    open_tracker(TrackingConfig(), "cache").recover()
    assert not runs(client)


def test_a_job_holds_its_lock_until_its_run_is_closed(client, monkeypatch):
    held = []

    def interrupted(*_, **__):
        raise Interrupted(signal.SIGTERM)

    def broken(*_, **__):
        raise ValueError("cannot be fitted")

    def look(method):
        def wrapped(self, run, *arguments, **keywords):
            method(self, run, *arguments, **keywords)
            held.append(JobLocks(Path("runs/locks")).is_held(run.tags[IDENTITY]))

        return wrapped

    for name in ("finish", "fail", "kill"):
        monkeypatch.setattr(MlflowTracker, name, look(getattr(MlflowTracker, name)))
    assert in_process(*ONE).status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.experiment.evaluate", broken)
        assert in_process(*ONE, "seed=7").status == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.experiment.evaluate", interrupted)
        assert in_process(*ONE, "seed=8").status == 143
    assert held == [True, True, True]
    [name] = {run.data.tags[IDENTITY] for run in runs(client, seed="42")}
    assert JobLocks(Path("runs/locks")).is_held(name) is False
