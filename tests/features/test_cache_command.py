"""What is evicted from the cache, and its command line."""

from __future__ import annotations

import os

import pytest

from harness.features import reader as reader_module
from harness.features.__main__ import main
from harness.features.feature_cache import damaged, lock, prune, sections
from harness.features.reader import FeatureReader
from tests.features.images import PLAIN, PlainEngine
from tests.features.slow_process import SETTINGS, SIZE


@pytest.fixture
def cache(samples, tmp_path, monkeypatch):
    """Pooled features and maps of all samples, used in their order, the first one first."""
    monkeypatch.setattr(reader_module, "build_engine", lambda *args, **settings: PlainEngine())
    folder = tmp_path / "cache"
    open_reader(folder).pooled(samples)
    for k, sample in enumerate(samples):
        for path in folder.rglob(f"{sample.digest}.*"):
            os.utime(path, (1000 + k, 1000 + k))
    return folder


def open_reader(folder):
    return FeatureReader(PLAIN, image_size=SIZE, cache=folder, settings=SETTINGS)


def size(cache):
    return sum(entry.size for section in sections(cache) for entry in section.entries)


def test_prune_removes_what_was_not_used_for_longest(cache, samples):
    list(open_reader(cache).maps(samples[:1]))  # reading is using
    limit = size(cache) // 2
    assert prune(cache, limit=limit) > 0
    assert size(cache) <= limit
    names = {entry.path.name for section in sections(cache) for entry in section.entries}
    assert f"{samples[0].digest}.maps" in names
    assert f"{samples[-1].digest}.maps" in names
    assert f"{samples[1].digest}.maps" not in names


def test_prune_to_a_size_that_is_kept_removes_nothing(cache):
    assert prune(cache, limit=size(cache)) == 0


def test_prune_removes_half_written_files_once_they_are_old(cache):
    entry = sections(cache)[0].entries[0].path
    young, old = entry.with_suffix(".young.part"), entry.with_suffix(".old.part")
    young.touch()
    old.touch()
    os.utime(old, (1000, 1000))
    prune(cache, limit=size(cache))
    assert young.exists()
    assert not old.exists()


def test_prune_removes_what_killed_processes_left_beside_the_entries(cache):
    folder = sections(cache)[0].entries[0].path.parent
    left = [
        folder.parent / "recipe.json.1.part",
        cache / "backbones" / "a.json.1.part",
        folder / "a.lock",
    ]
    left[1].parent.mkdir()
    foreign = cache / "mine" / "deep" / "poetry.lock"
    foreign.parent.mkdir(parents=True)
    for path in (*left, foreign):
        path.touch()
        os.utime(path, (1000, 1000))
    with lock(folder / "held.lock", wait=False):
        prune(cache, limit=size(cache))
        assert (folder / "held.lock").exists()
    assert not [path for path in left if path.exists()]
    assert foreign.exists()


@pytest.mark.parametrize("content", ["", "{'", "[1]", "7"])
def test_a_damaged_description_is_warned_of_and_written_again(cache, samples, capsys, content):
    [description] = cache.glob("*/recipe.json")
    before = description.read_text()
    description.write_text(content)
    for command in (["list"], ["verify"], ["prune", "--limit-gb", "1"]):
        with pytest.warns(UserWarning, match=r"recipe\.json is damaged"):
            assert main(["--cache", str(cache), *command]) == 0
    assert "?" in capsys.readouterr().out
    next(cache.rglob(f"{samples[0].digest}.pooled")).unlink()
    open_reader(cache).pooled(samples)
    assert description.read_text() == before


def test_the_reader_keeps_the_cache_below_its_limit(cache, samples, tmp_path):
    other = tmp_path / "other"
    settings = type(SETTINGS)(engine="torch", device="cpu", cache_limit_gb=size(cache) / 2e9)
    reader = FeatureReader(PLAIN, image_size=SIZE, cache=other, settings=settings)
    reader.pooled(samples)
    assert 0 < size(other) <= size(cache) / 2


def test_list_names_each_section(cache, capsys, samples):
    assert main(["--cache", str(cache), "list"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["KEY", "WEIGHTS", "SIZE"]
    assert row.split()[:7] == [
        sections(cache)[0].key[:12],
        *("plain", str(SIZE), "torch", "fp32", "cpu", "pil"),
    ]
    assert row.split()[7:9] == [str(len(samples))] * 2


def test_verify_finds_a_damaged_entry(cache, capsys):
    assert main(["--cache", str(cache), "verify"]) == 0
    assert not list(damaged(cache))
    entry = sections(cache)[0].entries[0].path
    entry.write_bytes(entry.read_bytes()[:-1])
    assert main(["--cache", str(cache), "verify"]) == 1
    assert str(entry) in capsys.readouterr().out


def test_prune_empties_the_cache_on_demand(cache, capsys, samples):
    assert main(["--cache", str(cache), "prune", "--limit-gb", "0"]) == 0
    assert capsys.readouterr().out == f"{2 * len(samples)} entries removed\n"
    assert size(cache) == 0


@pytest.mark.parametrize("limit", ["-1", "inf", "nan", "much"])
def test_prune_refuses_a_limit_that_is_no_size(cache, capsys, limit):
    with pytest.raises(SystemExit):
        main(["--cache", str(cache), "prune", f"--limit-gb={limit}"])
    assert limit in capsys.readouterr().err


def test_a_missing_folder_is_named(tmp_path, capsys):
    assert main(["--cache", str(tmp_path / "none"), "list"]) == 2
    assert "--cache must be an existing folder" in capsys.readouterr().err
