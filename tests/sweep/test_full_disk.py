"""A sweep whose disk becomes full in the middle of it says so; the same one does the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.tracking.store import connect, store_uri
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


@pytest.mark.parametrize("launcher", ["in_process", "joblib"])
def test_results_that_no_disk_holds_are_computed_again(small_disk, monkeypatch, launcher):
    alone = f"sqlite:///{Path('apart').resolve()}/mlflow.db"
    elsewhere = ("features.cache=apart/cache", f"tracking.uri={alone}")
    assert as_process(*SIX, *elsewhere).status == 0
    monkeypatch.setenv("TINY_PAUSE", "0.3")
    sweep = (*SIX, f"hydra/launcher={launcher}")
    process = start(*sweep)
    store = Path("runs/mlflow.db")
    wait_until(lambda: store.exists() and statuses(connect(store_uri()))["FINISHED"])
    fill("runs/filler")

    assert process.wait(300) == 1, Path("output.txt").read_text(encoding="utf-8")
    text = Path("output.txt").read_text(encoding="utf-8")
    lost = re.findall(r"failed: OSError: .*: the same command does the job again", text)
    assert 1 <= len(lost) < 6, text
    assert "Logging error" not in text
    assert "Traceback" not in text

    Path("runs/filler").unlink()
    again = as_process(*sweep)
    assert again.status == 0, again.out + again.err
    client = connect(store_uri())
    assert numbers(client) == numbers(connect(alone))
    assert statuses(client)["FINISHED"] == 6
    assert statuses(client)["RUNNING"] == 0
    assert as_process(*sweep).out.count(": skipped (run ") == 6
