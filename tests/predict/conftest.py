"""A run that kept its model, and the images to score with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import TrackingConfig
from harness.data import load_split
from harness.fitting import fit
from harness.predict.predictor import trained
from harness.sweep.task import run_job
from harness.tracking import open_tracker
from tests.conftest import tiny_job

ROOT = Path(__file__).resolve().parent.parent.parent
BROKEN = "broken/half.png"
TRUSTED = "tests.tiny:build"
"""The backbone of the tiny job: none of this project's own."""


def environment(**values):
    """The environment of a process that imports this project and its tests."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | values


def predict_command(*arguments):
    """Run `python -m harness.predict` as a process of its own."""
    command = [sys.executable, "-m", "harness.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def run_and_keep(job, uri):
    """Run a job that keeps its model; return the run's id."""
    tracker = open_tracker(TrackingConfig(uri=uri), None)
    outcome = run_job(job, tracker, force=True, save_model=True)
    assert outcome.status == "finished", outcome.reason
    return outcome.run_id


@pytest.fixture(scope="module")
def uri(tmp_path_factory, make_store):
    """An SQLite store."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def split(job):
    return load_split(job.dataset, job.category, seed=job.seed)


@pytest.fixture
def images(split, tmp_path):
    """A folder with four test images, one of them in a folder below, and a broken one."""
    folder = tmp_path / "images"
    for k, sample in enumerate([*split.test[:2], *split.test[-2:]]):
        target = folder / ("below" if k == 3 else "") / f"{k}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, target)
    (folder / BROKEN).parent.mkdir()
    content = split.test[0].path.read_bytes()
    (folder / BROKEN).write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def small_job(job):
    """The tiny job on few training images."""
    return replace(job, n_train=20)


@pytest.fixture(scope="session")
def kept_job(synthetic_mvtec, tmp_path_factory):
    """The small job with a cache that the tests of a session share."""
    return replace(tiny_job(synthetic_mvtec, tmp_path_factory.mktemp("kept")), n_train=20)


@pytest.fixture(scope="session")
def fitted(kept_job):
    return fit(kept_job)


@pytest.fixture(scope="session")
def detector(fitted):
    return trained(fitted)
