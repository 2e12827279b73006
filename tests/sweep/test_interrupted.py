"""Commands that are interrupted close their runs within seconds; the same one does the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.tracking.store import connect
from tests.sweep.conftest import (
    LAUNCHERS,
    as_process,
    in_process,
    numbers,
    start,
    statuses,
    wait_until,
)
from tests.sweep.postgresql import Server

THREE = ("-m", "dataset=btad", "category=01,02,03")

pytestmark = pytest.mark.slow


def end(process, client, *, send):
    """Interrupt a command while it works, see that it is quick, and return what it printed."""
    wait_until(lambda: statuses(client)["RUNNING"])
    interrupted = time.monotonic()
    send()
    status = process.wait(120)
    assert time.monotonic() - interrupted < 30
    return status, Path("output.txt").read_text(encoding="utf-8")


def see_closed(client, text):
    assert statuses(client)["RUNNING"] == 0
    assert statuses(client)["KILLED"] >= 1
    assert "Traceback" not in text


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_closes_its_runs(client, pause, launcher, number):
    sweep = (*THREE, *LAUNCHERS[launcher])
    process = start(*sweep)
    status, text = end(process, client, send=lambda: process.send_signal(number))
    assert status == 128 + number
    assert f"interrupted by {number.name}" in text
    see_closed(client, text)
    assert in_process(*THREE).status == 0
    assert len(numbers(client)) == 3


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_from_the_terminal_reaches_every_process(client, pause, launcher, number):
    process = start(*THREE, *LAUNCHERS[launcher])
    status, text = end(process, client, send=lambda: os.killpg(process.pid, number))
    assert status == 128 + number
    assert f"interrupted by {number.name}" in text
    see_closed(client, text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_single_run_is_closed(client, pause, number):
    job = ("dataset=btad", "category=01")
    process = start(*job)
    status, text = end(process, client, send=lambda: os.killpg(process.pid, number))
    assert status == 128 + number
    see_closed(client, text)
    assert in_process(*job).status == 0
    assert len(numbers(client)) == 1


@pytest.mark.parametrize("launcher", ["worker", "in_process"])
def test_second_signal_keeps_no_run_from_being_closed(client, pause, launcher):
    process = start(*THREE, *LAUNCHERS[launcher])

    def send():
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)

    _, text = end(process, client, send=send)
    see_closed(client, text)


@pytest.mark.parametrize("launcher", ["worker", "in_process"])
def test_third_signal_ends_the_command_and_its_worker_at_once(client, launcher):
    process = start(*THREE, *LAUNCHERS[launcher], TINY_STUBBORN="1")
    pid = wait_until(lambda: Path("stubborn").exists() and Path("stubborn").read_text())
    for _ in range(3):
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(10) == -signal.SIGINT
    wait_until(lambda: not lives(pid), 10)
    assert in_process(*THREE).status == 0
    assert statuses(client)["FINISHED"] == 3
    assert statuses(client)["RUNNING"] == 0


def lives(pid):
    """Whether there is such a process; one that nobody has waited for has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def server(empty_folder, monkeypatch):
    """An MLflow server on SQLite."""
    running = Server(f"sqlite:///{empty_folder}/server.db", empty_folder / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize("launcher", ["worker", "in_process"])
def test_server_that_hangs_keeps_nobody_waiting(server, pause, launcher):
    client = connect(server.uri)
    process = start(*THREE, "tracking=server", *LAUNCHERS[launcher])

    def send():
        os.killpg(server.process.pid, signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)

    status, _ = end(process, client, send=send)
    os.killpg(server.process.pid, signal.SIGCONT)
    assert status == 143
    push = [sys.executable, "-m", "harness.tracking", "push"]
    assert subprocess.run(push, capture_output=True).returncode == 0
    again = as_process(*THREE, "tracking=server")
    assert again.status == 0, again.out + again.err
    assert statuses(client)["FINISHED"] == 3
    assert statuses(client)["RUNNING"] == 0
