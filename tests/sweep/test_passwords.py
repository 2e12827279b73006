"""A password of the store reaches no terminal, no file and no other machine."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest

from harness.record import Outcome
from harness.sweep.workers import InProcess
from harness.tracking.tracker import MlflowTracker
from tests.sweep.conftest import as_process, in_process
from tests.sweep.postgresql import Server

SECRET = "p4ssw0rd"
JOB = ("dataset=btad", "category=01", "localizer=none")


def see_nothing(ended):
    assert SECRET not in ended.out + ended.err
    for path in Path().rglob("*"):
        assert SECRET not in path.name
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "override",
    [
        "tracking.uri={}",
        "tracking.uri='{}'",
        "tracking.uri=' {}'",
        "tracking.uri=choice({})",
        '+tracking.uri="{}"',
        '+tracking={{kind:mlflow,uri:"{}"}}',
        "tracking.url={}",
        "+hydra.job.env_set.MLFLOW_TRACKING_URI='{}'",
    ],
)
@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_a_password_that_is_typed_is_refused(empty_folder, monkeypatch, mode, override):
    address = f"postgresql://me:{SECRET}@host/runs"
    if mode:  # `tracking.uri=$MLFLOW_TRACKING_URI`
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    ended = in_process(*mode, *JOB, override.format(address))
    assert ended.status == 1
    key = override.partition("=")[0].lstrip("+")
    assert f"{key} must hold no password, got postgresql://me@host/runs with one" in ended.err
    see_nothing(ended)


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_a_server_that_cannot_be_reached_is_named_without(folder, monkeypatch, mode):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ended = in_process(*mode, *JOB, "tracking=server")
    assert ended.status == 1
    assert "tracking.uri=http://127.0.0.1:1: " in ended.err
    see_nothing(ended)


def test_the_configuration_that_is_printed_holds_none(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:1")
    ended = in_process("--cfg", "job", "--resolve", *JOB, "tracking=server")
    assert ended.status == 0
    assert "uri: http://127.0.0.1:1\n" in ended.out
    see_nothing(ended)


def test_a_database_that_is_away_is_reported_in_one_line(folder, monkeypatch):
    pytest.importorskip("psycopg")
    address = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    ended = in_process(*JOB, "tracking=server")
    assert ended.status == 1
    assert "tracking.uri=postgresql+psycopg://me@127.0.0.1:1/runs: " in ended.err
    see_nothing(ended)


def test_tasks_for_other_processes_hold_none(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:1")
    handed = []

    def submit(self, task):
        handed.append(task)
        done = Future()
        done.set_result(Outcome(str(task.job), "finished"))
        return done

    monkeypatch.setattr(InProcess, "submit", submit)
    monkeypatch.setattr(MlflowTracker, "recover", lambda self: None)
    monkeypatch.setattr(MlflowTracker, "outdated", lambda self: None)
    assert in_process("-m", *JOB, "tracking=server").status == 0
    [task] = handed
    assert task.tracking.uri == "http://127.0.0.1:1"
    assert SECRET.encode() not in pickle.dumps(task)


@pytest.mark.slow
def test_a_sweep_into_a_server_writes_none(empty_folder, monkeypatch):
    server = Server(f"sqlite:///{empty_folder}/server.db", empty_folder / "server")
    address = server.uri.replace("http://", f"http://me:{SECRET}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    server.start()
    try:
        ended = as_process("-m", *JOB, "tracking=server", "seed=1,2", "hydra/launcher=joblib")
        assert ended.status == 0, ended.out + ended.err
    finally:
        server.stop()
    see_nothing(ended)
    refused = as_process("-m", *JOB, "tracking=server", "seed=3")
    assert refused.status == 1
    see_nothing(refused)
    push = subprocess.run(
        [sys.executable, "-m", "harness.tracking", "push"], capture_output=True, text=True
    )
    assert (push.returncode, push.stderr) == (0, "nothing is waiting\n")
