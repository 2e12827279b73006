"""What every launcher promises beside surviving: threads, devices, logs, limits in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.sweep.conftest import LAUNCHERS, in_process, runs, statuses, wait_until
from tests.sweep.postgresql import _free_port

TWO = ("-m", "dataset=btad", "category=01,02", "localizer=none")


def seen(monkeypatch, *launcher, threads):
    """Run two jobs, each with its log, and return what their processes saw of the environment."""
    monkeypatch.setenv("TINY_SEEN", str(Path("seen").resolve()))
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    ended = in_process(*TWO, "tracking=none", "features.cache=null", *launcher)
    assert ended.status == 0, ended.out + ended.err
    logs = sorted(Path("runs/logs").rglob("job.log"))
    assert [log.parent.name for log in logs] == ["0", "1"]
    assert all("model: " in log.read_text() for log in logs)
    return [json.loads(line) for line in Path("seen").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "threads", "share"),
    [
        pytest.param(("hydra/launcher=worker",), "2", "2", id="worker"),
        pytest.param(LAUNCHERS["joblib"], "8", "2", id="joblib"),
    ],
)
def test_jobs_divide_the_threads_and_see_the_devices_of_the_command(
    folder, monkeypatch, launcher, threads, share
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    found = seen(monkeypatch, *launcher, threads=threads)
    assert {one["OMP_NUM_THREADS"] for one in found} == {share}
    assert {one["CUDA_VISIBLE_DEVICES"] for one in found} == {"3,1"}


@pytest.mark.slow
def test_where_no_devices_are_chosen_local_jobs_see_all(folder, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = seen(monkeypatch, "hydra/launcher=worker", threads="2")
    assert {one["CUDA_VISIBLE_DEVICES"] for one in found} == {None}


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (("joblib", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs must be at least 1, got 0"),
        (
            ("submitit_slurm", "hydra.launcher.max_jobs=0"),
            "hydra.launcher.max_jobs must be at least 1, got 0",
        ),
        (("joblib", "hydra.launcher.n_jobs=four"), "hydra.launcher.n_jobs must be at least 1, got"),
        (("joblib", "hydra.launcher.n_jobs=0", "plan=true"), "n_jobs must be at least 1, got 0"),
        (("submitit_slurm",), "hydra.launcher: "),
        (
            ("basic",),
            "hydra/launcher must be one of in_process, joblib, submitit_slurm, worker;"
            " got BasicLauncher",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_launcher_that_cannot_be_is_reported_in_one_line(client, monkeypatch, launcher, message):
    monkeypatch.setenv("PATH", "/nowhere")  # no srun there
    name, *settings = launcher
    ended = in_process(*TWO, f"hydra/launcher={name}", *settings)
    assert ended.status == 1
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not runs(client)


def test_launcher_that_there_is_none_of_is_reported_with_the_choices(client):
    ended = in_process(*TWO, "hydra/launcher=submitit_local")
    assert ended.status == 1
    assert "hydra/launcher must be one of basic, in_process, joblib, submitit_slurm" in ended.err
    assert "got 'submitit_local'" in ended.err
    assert "Traceback" not in ended.err


def test_launcher_without_submitit_names_the_extra(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.delitem(sys.modules, "harness.sweep.slurm", raising=False)
    ended = in_process(*TWO, "hydra/launcher=submitit_slurm")
    assert ended.status == 1
    assert "pip install 'dfkde-benchmark[submitit]'" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_kind_of_tracking_that_is_none_is_reported_in_one_line(folder, mode):
    ended = in_process(*mode, "dataset=btad", "category=01", "tracking.kind=csv")
    assert ended.status == 1
    assert "tracking.kind must be one of mlflow, none; got 'csv'" in ended.err
    assert "Traceback" not in ended.err


def test_folder_of_logs_that_cannot_be_made_is_reported_in_one_line(folder):
    Path("file").touch()
    ended = in_process(*TWO, "hydra.sweep.dir=file/logs", "tracking=none")
    assert ended.status == 1
    assert "Not a directory: 'file/logs'" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_first_failure_stops_the_workers_too(client, broken):
    sweep = ("-m", "dataset=btad", "category=01,02,03", "seed=1,2", f"dataset.root={broken}")
    ended = in_process(*sweep, "fail_fast=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert ended.status == 1
    assert statuses(client)["RUNNING"] == 0
    assert statuses(client)["FAILED"] < 6
    assert ended.out.count("│ stopped") >= 4


@pytest.mark.slow
def test_processes_that_begin_at_once_make_one_store(empty_folder):
    code = "from harness.tracking.store import connect, store_uri; connect(store_uri())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)
    ]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 2
    assert sorted(path.name for path in Path("runs").iterdir() if "part" in path.name) == []
    assert Path("runs/mlflow.db").exists()


@pytest.mark.slow
def test_ui_is_on_this_machine_only(folder):
    port = _free_port()
    command = [sys.executable, "-m", "harness.tracking", "ui", "--port", str(port)]
    with open("ui.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert wait_until(lambda: _answer(f"http://127.0.0.1:{port}/health"), 120) == 200
        listening = Path("/proc/net/tcp").read_text().split()
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        process.terminate()
        process.wait(30)


def _answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except OSError:
        return None
