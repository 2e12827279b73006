"""Several processes on one cache, and what the death of one leaves behind."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.features import reader as reader_module
from harness.features.feature_cache import damaged, lock
from harness.features.reader import FeatureReader
from tests.features.images import PLAIN, PlainEngine
from tests.features.slow_process import SETTINGS, SIZE


@pytest.fixture(autouse=True)
def _plain_engine(monkeypatch):
    monkeypatch.setattr(reader_module, "build_engine", lambda *args, **settings: PlainEngine())


def open_reader(cache: Path | None) -> FeatureReader:
    return FeatureReader(PLAIN, image_size=SIZE, cache=cache, settings=SETTINGS)


def start_process(tmp_path: Path) -> subprocess.Popen:
    folders = [str(tmp_path / name) for name in ("images", "cache", "start")]
    command = [sys.executable, "-m", "tests.features.slow_process", *folders]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    count, digest = output.split()
    return int(count), digest


def test_two_processes_extract_every_image_once(samples, tmp_path):
    processes = [start_process(tmp_path) for _ in range(2)]
    (tmp_path / "start").touch()
    (n_first, first), (n_second, second) = map(result, processes)
    assert n_first + n_second == len(samples)
    reader = open_reader(None)
    alone = hashlib.sha256(reader.pooled(samples).tobytes()).hexdigest()
    assert first == second == alone


def test_a_killed_process_leaves_a_usable_cache(samples, tmp_path):
    process = start_process(tmp_path)
    (tmp_path / "start").touch()
    while len(list((tmp_path / "cache").rglob("*.pooled"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    n_left = len(list((tmp_path / "cache").rglob("*.pooled")))
    assert n_left < len(samples)
    reader = open_reader(tmp_path / "cache")
    pooled = reader.pooled(samples)
    assert reader.n_extracted == len(samples) - n_left
    assert not list(damaged(tmp_path / "cache"))
    fresh = open_reader(None)
    assert (fresh.pooled(samples) == pooled).all()


def test_a_lock_excludes_until_it_ends(tmp_path):
    path = tmp_path / "deep" / "work.lock"
    with lock(path, wait=False) as mine, lock(path, wait=False) as theirs:
        assert (mine, theirs) == (True, False)
    assert not path.exists()
    with lock(path, wait=True) as mine:
        assert mine


def test_a_sample_that_another_process_computes_is_waited_for(samples, tmp_path):
    """The other process gives up without a result; we then compute the image ourselves."""
    reader = open_reader(tmp_path / "cache")
    name = samples[0].digest
    path = tmp_path / "cache" / reader.spec.key / name[:2] / f"{name}.lock"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from harness.features.feature_cache import lock\n"
        "with lock(Path(sys.argv[1]), wait=False):\n    print('held', flush=True); time.sleep(1)"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        reader.pooled(samples)
    assert reader.n_extracted == len(samples)
