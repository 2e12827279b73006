from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import ModelConfig
from harness.sweep.task import run_job
from harness.tracking import MlflowTracker
from tests.conftest import tiny_job

FOLDER = Path(__file__).parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def test_there_are_three_pairs() -> None:
    assert len(SCRIPTS) == 3
    assert [path.stem for path in SCRIPTS] == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_and_notebook_hold_the_same_cells(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="the extra `notebooks` is not installed")
    pair = [jupytext.read(path) for path in (script, script.with_suffix(".ipynb"))]
    cells = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in pair]
    assert cells[0] == cells[1]
    assert not any(cell.get("outputs") for cell in pair[1].cells), "committed without outputs"


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize("script", SCRIPTS[:2], ids=lambda path: path.stem)
def test_script_runs_on_what_is_installed(script: Path, tmp_path: Path) -> None:
    text = script.read_text()
    if "N_TRAIN" in text:
        text = replaced(text, "N_TRAIN, EACH = 120, 4", "N_TRAIN, EACH = 30, 24")
    script = tmp_path / script.name
    script.write_text(text)
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        env=environment | {"TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_notebook_on_runs_runs_in_a_kernel(
    tmp_path: Path,
    make_store: Callable[[Path], str],
    synthetic_mvtec: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    nbformat = pytest.importorskip("nbformat")
    tracker = MlflowTracker(make_store(tmp_path / "runs"))
    job = tiny_job(synthetic_mvtec, tmp_path / "cache")
    for model in (job.model, ModelConfig("knn", "dfkde.baselines:KNN")):
        assert run_job(replace(job, model=model), tracker).status == "finished"
    monkeypatch.setenv("DFKDE_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(FOLDER / "3_reading_results.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "2 finished runs" in shown
    assert "mvtec/bottle: " in shown
    assert "1 categories have two runs" in shown
