"""A working folder with synthetic datasets, and the command line run in it, as users run it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import run as run_module
from harness.data.synthetic import Plan, write_synthetic
from harness.tracking.store import connect, store_uri

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SETTINGS = (
    "backbone=custom",
    "backbone.factory=tiny_backbone:build",
    'backbone.layers=["1"]',
    "features.engine=torch",
    "image_size=32",
    "dataset.official=false",
)

LAUNCHERS = {
    "worker": (),  # the default
    "in_process": ("hydra/launcher=in_process",),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _as_from_a_terminal():
    """Let commands feel SIGHUP where the tests run by `nohup`, whose children ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Every category of the three datasets, small; as $DFKDE_DATA."""
    root = tmp_path_factory.mktemp("datasets")
    for name in ("mvtec", "btad", "visa"):
        write_synthetic(root / name, name, plan=Plan(side=32))
    return root


@pytest.fixture
def empty_folder(tmp_path, datasets, monkeypatch):
    """An empty working folder; the process works there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in environment(datasets).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def folder(empty_folder, make_store):
    """A working folder with an empty store; the process works there."""
    make_store(empty_folder / "runs")
    return empty_folder


@pytest.fixture
def broken(folder, datasets):
    """BTAD with a mask missing in each category, so that every job fails."""
    root = folder / "broken"
    shutil.copytree(datasets / "btad", root)
    for masks in root.glob("*/ground_truth/ko"):
        next(masks.iterdir()).unlink()
    return root


@pytest.fixture
def client(folder):
    return connect(store_uri())


@pytest.fixture
def pause(monkeypatch):
    """Make a job of the tiny backbone take at least two seconds."""
    monkeypatch.setenv("TINY_PAUSE", "0.3")


def environment(datasets):
    return {
        "DFKDE_DATA": str(datasets),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
    }


def command_line(*arguments):
    """The command as a list; sweeps begin with -m."""
    return [sys.executable, "-m", "harness.run", *arguments, *SETTINGS]


def in_process(*arguments, settings=SETTINGS):
    """Run the command line and its jobs in this process, which spares the imports."""
    if "-m" in arguments and not any("hydra/launcher" in argument for argument in arguments):
        arguments = (*arguments, "hydra/launcher=in_process")
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["harness.run", *arguments, *settings])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_module.main()
            except SystemExit as error:
                status = int(error.code or 0)
    return Ended(status, out.getvalue(), err.getvalue())


def as_process(*arguments):
    """Run the command line as a process of its own."""
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*arguments, **environment):
    """Start the command line as a process of its own, its output going to `output.txt`."""
    with open("output.txt", "a") as output:
        return subprocess.Popen(
            command_line(*arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )


def wait_until(condition, seconds=300):
    """Return what the condition gives, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{condition} is not true after {seconds} s")


def runs(client, **tags):
    """Every run of a job in the store with these tags, as MLflow gives them."""
    return [run for run in _every(client, **tags) if "average" not in run.data.tags]


def averages(client):
    """Every run of averages."""
    return [run for run in _every(client) if "average" in run.data.tags]


def _every(client, **tags):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, max_results=10_000)
    return [run for run in found if tags.items() <= run.data.tags.items()]


def statuses(client):
    """How many runs have each status."""
    return Counter(run.info.status for run in runs(client))


def numbers(client):
    """The metrics of each finished run by identity, without its times; no identity twice."""
    finished = [run for run in runs(client) if run.info.status == "FINISHED"]
    found = {
        run.data.tags["identity"]: {
            name: value
            for name, value in run.data.metrics.items()
            if not name.startswith("seconds.")
        }
        for run in finished
    }
    assert len(found) == len(finished)
    return found
