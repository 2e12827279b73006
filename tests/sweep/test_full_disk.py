"""A sweep whose disk becomes full in the middle of it loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness.tracking.spool import Spool

from harness.tracking.store import connect, spool_folder, store_uri
from tests.sweep.conftest import as_process, numbers, start, statuses, wait_until

pytestmark = pytest.mark.slow
SIX = ("-m", "dataset=btad", "category=01,02,03", "seed=1,2")


@pytest.fixture
def small_disk(empty_folder):
    """The folder `runs` on a disk of its own with 8 MB."""
    Path("runs").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "runs"]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts a disk")
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield
    for folder in Spool(spool_folder(store_uri())).folders[1:]:
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["umount", "--lazy", "runs"], check=True)


def fill(path):
    """Write until nothing fits any more."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def push():
    command = [sys.executable, "-m", "harness.tracking", "push"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("launcher", ["in_process", "joblib"])
def test_results_wait_on_another_disk(small_disk, monkeypatch, launcher):
    alone = f"sqlite:///{Path('apart').resolve()}/mlflow.db"
    elsewhere = ("features.cache=apart/cache", f"tracking.uri={alone}")
    assert as_process(*SIX, *elsewhere).status == 0
    monkeypatch.setenv("TINY_PAUSE", "0.3")
    sweep = (*SIX, f"hydra/launcher={launcher}")
    process = start(*sweep)
    store = Path("runs/mlflow.db")
    wait_until(lambda: store.exists() and statuses(connect(store_uri()))["FINISHED"])
    fill("runs/filler")

    assert process.wait(300) == 0, Path("output.txt").read_text(encoding="utf-8")
    text = Path("output.txt").read_text(encoding="utf-8")
    spool = Spool(spool_folder(store_uri()))
    waiting = list(spool)
    assert f"{len(waiting)} results wait in" in text
    assert "Logging error" not in text
    assert 1 <= len(waiting) < 6
    assert {path.parent for path in waiting} <= set(spool.folders[1:])

    Path("runs/filler").unlink()
    pushed = push()
    assert (pushed.returncode, pushed.stderr) == (0, "nothing waits\n")
    assert numbers(connect(store_uri())) == numbers(connect(alone))
    assert statuses(connect(store_uri())) == {"FINISHED": 6}
    assert as_process(*sweep).out.count(": skipped (run ") == 6
