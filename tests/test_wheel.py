"""The wheel, installed elsewhere, brings its configuration and runs from any folder."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd):
    """Run a command with no trace of the checkout in its environment."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment's `bin` that holds the wheel, the dependencies lent from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    lib = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site = folder / "env" / lib
    install = [*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site / "lent.pth").write_text(str(Path(sys.prefix) / lib))
    return folder / "env" / "bin" / "python"


@pytest.mark.slow
def test_help_comes_from_the_wheel_itself(installed, tmp_path):
    where = run(installed, "-c", "import harness; print(harness.__file__)", cwd=tmp_path)
    assert str(installed.parent.parent) in where
    text = run(installed, "-m", "harness.run", "--help", cwd=tmp_path)
    assert "backbone: " in text
    assert "category" in text


@pytest.mark.slow
def test_a_job_runs_from_another_folder(installed, synthetic_mvtec, tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "tests" / "tiny.py").read_text())
    command = [
        *(installed, "-m", "harness.run", "dataset=mvtec", "category=bottle"),
        *("dataset.official=false", f"dataset.root={synthetic_mvtec}", "image_size=64"),
        *("backbone=custom", "backbone.factory=mine:build", "backbone.layers=[features]"),
    ]
    assert "finished" in run(*command, cwd=tmp_path)
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    table = run(installed, "-m", "harness.report", "show", cwd=tmp_path)
    assert "| bottle (not official) |" in table
    assert "(1/15)" in table


@pytest.mark.slow
def test_the_console_script_is_installed(installed):
    text = (installed.parent.parent / "lib").rglob("entry_points.txt")
    assert "dfkde-run = harness.run:main" in "".join(path.read_text() for path in text)
