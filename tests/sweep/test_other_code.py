"""An edit of the code that computes runs a job again; put back, its run is found again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from harness import provenance
from harness.features import reader
from harness.record import SCHEMA_VERSION
from tests.sweep.conftest import ROOT, Ended, in_process, runs

MODEL = """
from dfkde import AnomalyDetector
from helper import distance


class Centroid(AnomalyDetector):
    def _fit(self, X):
        self.mean_ = X.mean(axis=0)

    def _score_samples(self, X):
        return -distance(X, self.mean_)
"""
HELPER = """
import numpy as np


def distance(X, mean):
    return np.linalg.norm(X - mean, axis=1)
"""
NETWORK = """
import torch


class Square(torch.nn.Module):
    def forward(self, x):
        return x**2


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 8, stride=8), Square())
"""
SETTINGS = (
    *("dataset=mvtec", "category=bottle", "dataset.official=false", "image_size=32"),
    *("backbone=custom", "backbone.factory=network.py:build", 'backbone.layers=["1"]'),
    *("features.engine=torch", "features.cache=null", "localizer=none"),
)
OWN = ("model=constant", "model.name=centroid", "model.factory=mymodule:Centroid")
IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")


@pytest.fixture
def work(folder, monkeypatch):
    """The working folder with a model class, its helper and a network."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit may keep size and second
    monkeypatch.setattr(reader, "_readers", {})
    (folder / "mymodule.py").write_text(MODEL)
    (folder / "helper.py").write_text(HELPER)
    (folder / "network.py").write_text(NETWORK)
    yield folder
    forget()


@pytest.fixture
def project(tmp_path_factory):
    """A git checkout with a copy of the project."""
    root = tmp_path_factory.mktemp("project")
    for name in ("conf", "dfkde", "harness", "hydra_plugins"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".gitignore").write_text("__pycache__\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, *IDENTITY, "commit", "-q", "-m", "All there is")
    return root


def git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def command(*arguments, root):
    """Run the command of the project in `root` as a process of its own."""
    line = [sys.executable, "-m", "harness.run", *arguments, *SETTINGS]
    path = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | path)
    assert done.returncode == 0, done.stdout + done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def forget():
    """Let this process read and import the code of jobs again, as another one would."""
    for name in ("mymodule", "helper"):
        sys.modules.pop(name, None)
    provenance._read.cache_clear()
    provenance._walk.cache_clear()
    reader._readers.clear()


def own():
    """Run the job of the model class of one's own as another process would."""
    forget()
    ended = in_process(*OWN, settings=SETTINGS)
    assert ended.status == 0, ended.out + ended.err
    return ended


def edit(path, *changes):
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")


def newest(client, n_runs):
    """The newest of so many runs, and its AUROC."""
    found = sorted(runs(client), key=lambda run: run.info.start_time)
    assert [run.info.status for run in found] == ["FINISHED"] * n_runs
    return found[-1], found[-1].data.metrics["image_auroc"]


def test_edited_model_helper_and_network_of_ones_own_run_again(work, client):
    own()
    first, auroc = newest(client, 1)
    assert auroc != 0.5

    edit(work / "mymodule.py", ("return -distance", "return +distance"))
    own()
    assert newest(client, 2)[1] == pytest.approx(1 - auroc)

    edit(work / "mymodule.py", ("return +distance", "# Near is normal.\n        return -distance"))
    edit(
        work / "mymodule.py", ("    def _fit", '    """Distance to the mean."""\n\n\n    def _fit')
    )
    commit = first.data.tags["commit"][:10]
    skipped = own().out
    assert f": skipped (run {first.info.run_id}, commit {commit}" in skipped
    assert skipped.rstrip().endswith("); force=true runs it again")
    newest(client, 2)

    edit(work / "helper.py", ("return np", "return -np"))
    own()
    assert newest(client, 3)[1] == pytest.approx(1 - auroc)

    edit(work / "helper.py", ("return -np", "return np"))
    edit(work / "network.py", ("x**2", "1 / (1 + x**2)"))  # the same tensors
    own()
    last, changed = newest(client, 4)
    assert last.data.tags["weights_digest"] == first.data.tags["weights_digest"]
    assert changed != auroc


@pytest.mark.slow
def test_sweep_with_an_edited_density_does_not_stand_for_the_clean_code(work, client, project):
    sweep = ("-m", "seed=1", "model.params.n_components=4", "hydra/launcher=in_process")
    commit = git(project, "rev-parse", "HEAD")[:10]
    command(*sweep, root=project)
    clean, auroc = newest(client, 1)

    density = project / "dfkde" / "density.py"
    edit(density, ("return self.kde_.score", "return -self.kde_.score"))
    command(*sweep, root=project)
    edited, flipped = newest(client, 2)
    assert flipped == pytest.approx(1 - auroc)
    assert edited.data.tags["dirty"] == "true"
    again = command(*sweep, root=project).out
    assert f": skipped (run {edited.info.run_id}, commit {commit}, uncommitted changes);" in again

    git(project, "checkout", "-q", "dfkde")
    edit(density, ("        self._check(X)\n", "\n        # A rule.\n        self._check(X)\n"))
    edit(project / "dfkde" / "baselines.py", ("return", "return 1 +"))
    edit(project / "harness" / "report" / "results.py", ("return", "return 1 +"))
    restored = command(*sweep, root=project).out
    assert f": skipped (run {clean.info.run_id}, commit {commit});" in restored
    assert re.search(rf"skipped +│ {auroc:.3f} ", restored)
    newest(client, 2)


def test_code_edited_while_a_job_runs_is_reported_and_the_run_stands_for_none(work, client):
    # As an editor would, between the import and the end.
    edit(work / "mymodule.py", ("= X.mean(axis=0)", "= X.mean(axis=0)\n        touch()"))
    touch = (
        "def touch():\n    with open(__file__, 'a') as file:\n        file.write('after = 1\\n')\n"
    )
    edit(work / "mymodule.py", ("class", f"{touch}\n\nclass"))
    own()
    assert newest(client, 1)[0].data.tags["code"] == "changed while running"
    edit(work / "mymodule.py", ("        touch()\n", ""))
    own()
    assert len(newest(client, 2)[0].data.tags["code"]) == 64


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["single", "sweep"])
def test_store_of_an_older_schema_is_reported_once(client, mode):
    older = str(SCHEMA_VERSION - 1)
    for _ in range(2):
        run = client.create_run("0", tags={"schema": older})
        client.set_terminated(run.info.run_id)
    jobs = ("dataset=btad", "category=01,02" if mode else "category=01", "localizer=none")
    ended = in_process(*mode, *jobs)
    assert ended.status == 0, ended.err
    text = f"runs/mlflow.db holds 2 runs of schema {older}; this version reads schema"
    text += f" {SCHEMA_VERSION}, whose identities differ: their jobs run again"
    [line] = [line for line in ended.err.splitlines() if "schema" in line]
    assert line.endswith(f"{text}, and no table shows them")
