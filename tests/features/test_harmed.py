"""A cache that something else has had its hands in: damage, files exchanged, links, pipes."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from harness.features import reader as reader_module
from harness.features.__main__ import main
from harness.features.feature_cache import (
    Store,
    array_from_bytes,
    array_to_bytes,
    damaged,
    lock,
    prune,
    sections,
)
from harness.features.reader import FeatureReader
from harness.system import locks
from harness.system.files import DamagedError, read_json, read_regular
from tests.data.planting import huge
from tests.features.images import PLAIN, PlainEngine
from tests.features.slow_process import SETTINGS, SIZE

OLD = (1000, 1000)


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr(reader_module, "build_engine", lambda *args, **settings: PlainEngine())
    monkeypatch.setattr(locks, "_warned", set())


@pytest.fixture
def samples(samples):
    """Few of them: each test reads all of them several times."""
    return samples[:5]


@pytest.fixture
def cache(samples, tmp_path):
    """Pooled features and maps of all samples."""
    open_reader(tmp_path / "cache").pooled(samples)
    return tmp_path / "cache"


def open_reader(folder, **changes):
    changes = {"image_size": SIZE, "settings": SETTINGS} | changes
    return FeatureReader(PLAIN, cache=folder, **changes)


def entry(cache, sample, kind="pooled"):
    return next(cache.rglob(f"{sample.digest}.{kind}"))


def section(cache):
    [description] = cache.glob("*/recipe.json")
    return description.parent


def exchange(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def features_of(reader, samples):
    return reader.pooled(samples), list(reader.maps(samples))


def check_sound(cache, samples):
    """Assert that what is read is right, with a warning, and that all is well afterwards."""
    expected = features_of(open_reader(None), samples)
    with pytest.warns(UserWarning, match="made again"):
        np.testing.assert_equal(features_of(open_reader(cache), samples), expected)
    again = open_reader(cache)
    np.testing.assert_equal(features_of(again, samples), expected)
    assert again.n_extracted == 0
    assert not list(damaged(cache))


@pytest.mark.parametrize("kind", ["pooled", "maps"])
def test_entries_of_two_images_exchanged(cache, samples, kind):
    exchange(entry(cache, samples[0], kind), entry(cache, samples[1], kind))
    assert len(list(damaged(cache))) == 2
    check_sound(cache, samples)


def test_entries_of_two_kinds_exchanged(cache, samples):
    exchange(entry(cache, samples[0], "pooled"), entry(cache, samples[0], "maps"))
    check_sound(cache, samples)


def test_entries_of_another_section(cache, samples, tmp_path):
    other = open_reader(tmp_path / "other", image_size=2 * SIZE, center_crop=SIZE)
    other.pooled(samples)
    for sample in samples:
        shutil.copy(entry(tmp_path / "other", sample), entry(cache, sample))
    check_sound(cache, samples)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0,), (3, 0, 2)])
def test_an_array_comes_back_as_it_was(shape):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    array.flat[:1] = np.nan
    found = array_from_bytes(array_to_bytes(array))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32


def test_an_entry_larger_than_the_memory_is_made_again(cache, samples, capsys):
    path = entry(cache, samples[3])
    huge(path)
    with pytest.raises(DamagedError, match=r"is larger than the memory$"):
        read_regular(path)
    assert main(["--cache", str(cache), "verify"]) == 1
    assert f"damaged: {path}" in capsys.readouterr().out
    check_sound(cache, samples)


def test_a_folder_or_a_pipe_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DamagedError, match="not a regular file"):
            read_regular(path)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


HARMS = {
    "garbage": lambda path: path.write_bytes(b"\x80garbage"),
    "empty": lambda path: path.write_bytes(b""),
    "list": lambda path: path.write_bytes(b"[]"),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: (path / "inner").mkdir(parents=True),
    "link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "loop": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize(
    "what", ["pooled", "maps", "lock", "recipe.json", "graph", "place", "section"]
)
@pytest.mark.parametrize("harm", HARMS)
def test_whatever_lies_in_its_place_features_are_right(cache, samples, harm, what):
    """And nothing hangs or fails: reading, listing, verifying, removing."""
    spec = open_reader(cache).spec
    expected = features_of(open_reader(None), samples)
    graph = Store(cache, spec)
    graph.write_bytes("model.onnx", b"network")
    one = samples[3]
    place = {
        "lock": entry(cache, one).with_suffix(".lock"),
        "recipe.json": cache / spec.key / "recipe.json",
        "graph": graph.folder / "mo" / "model.onnx",
        "place": entry(cache, one).parent,
        "section": cache / spec.key,
    }.get(what) or entry(cache, one, what)
    if what in ("lock", "recipe.json"):  # they matter where something is missing
        entry(cache, one).unlink()
    if what in ("place", "section"):
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    HARMS[harm](place)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        list(damaged(cache))
        for _ in range(2):
            np.testing.assert_equal(features_of(open_reader(cache), samples), expected)
        for command in (["list"], ["verify"], ["prune", "--limit-gb", "0"]):
            assert main(["--cache", str(cache), *command]) in (0, 1)
        assert graph.read_bytes("model.onnx") is None
        graph.write_bytes("model.onnx", b"network")
        assert graph.read_bytes("model.onnx") == b"network"


def test_a_changed_description_is_told(cache, capsys):
    path = section(cache) / "recipe.json"
    path.write_text(path.read_text().replace(f'"image_size": {SIZE}', '"image_size": 999'))
    with pytest.warns(UserWarning, match=r"recipe\.json is damaged"):
        assert main(["--cache", str(cache), "list"]) == 0
    assert "999" not in capsys.readouterr().out


def test_a_damaged_file_is_named_in_one_line(cache, samples, capsys):
    path = entry(cache, samples[0])
    path.with_name(f"{path.name}\n\x1b[2J").write_bytes(b"")
    assert main(["--cache", str(cache), "verify"]) == 1
    named, counted = capsys.readouterr().out.splitlines()
    assert named.isprintable()
    assert counted == f"{2 * len(samples) + 1} entries, 1 damaged"


def contents(folder):
    """All files below a folder, with their content and their times."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def elsewhere(cache, tmp_path):
    """The section, moved out of the cache, with what a killed process may leave, all old."""
    folder = tmp_path / "elsewhere" / section(cache).name
    folder.parent.mkdir()
    section(cache).rename(folder)
    some = next(folder.glob("??"))
    for name in ("a.lock", "a.1.part"):
        (some / name).touch()
    for path in folder.rglob("*.*"):
        os.utime(path, OLD)
    return folder


def test_nothing_is_removed_or_written_behind_a_linked_section(cache, elsewhere, samples, capsys):
    (cache / elsewhere.name).symlink_to(elsewhere)
    before = contents(elsewhere)
    with pytest.warns(UserWarning, match=f"{elsewhere.name} is a link, which is left alone"):
        assert main(["--cache", str(cache), "prune", "--limit-gb", "0"]) == 0
    assert capsys.readouterr().out == "0 entries removed\n"
    found = open_reader(cache)
    np.testing.assert_equal(
        features_of(found, samples[:3]), features_of(open_reader(None), samples[:3])
    )
    assert found.n_extracted == 0
    assert contents(elsewhere) == before


def test_a_linked_section_is_not_written_to(cache, elsewhere, samples):
    (cache / elsewhere.name).symlink_to(elsewhere)
    entry(elsewhere, samples[0]).unlink()
    entry(elsewhere, samples[1]).write_bytes(b"damaged")
    before = contents(elsewhere)
    settings = type(SETTINGS)(engine="torch", device="cpu", cache_limit_gb=1e-9)
    reader = open_reader(cache, settings=settings)
    with pytest.warns(UserWarning, match="made again|left alone|cannot keep") as caught:
        found = features_of(reader, samples)
    said = [str(one.message) for one in caught]
    assert sum("A link, which the cache does not follow" in one for one in said) == 1
    np.testing.assert_equal(found, features_of(open_reader(None), samples))
    assert reader.n_extracted == 2
    assert contents(elsewhere) == before


def test_nothing_is_removed_behind_a_linked_folder_of_entries(cache, samples, tmp_path):
    some = entry(cache, samples[0]).parent
    for name in ("a.lock", "a.1.part"):
        (some / name).touch()
        os.utime(some / name, OLD)
    some.rename(tmp_path / "elsewhere")
    some.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="is a link, which is left alone"):
        prune(cache, limit=0)
    assert contents(tmp_path / "elsewhere") == before
    assert not [path for path in cache.rglob("*.pooled") if not path.parent.is_symlink()]


def test_of_a_linked_entry_the_link_is_removed(cache, samples, tmp_path):
    path = entry(cache, samples[0])
    path.rename(tmp_path / "target")
    path.symlink_to(tmp_path / "target")
    before = contents(tmp_path)[tmp_path / "target"]
    open_reader(cache).pooled(samples)
    prune(cache, limit=0)
    assert not path.is_symlink()
    assert contents(tmp_path)[tmp_path / "target"] == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_lock_writes_nothing_behind_a_link(tmp_path, exists):
    path, target = tmp_path / "work.lock", tmp_path / "target"
    path.symlink_to(target)
    if exists:
        target.touch()
        os.utime(target, OLD)
    with lock(path, wait=False) as mine:
        assert mine
        assert not path.is_symlink()
    assert target.exists() == exists


def test_links_to_half_written_files_go_and_their_targets_stay(cache, samples, tmp_path):
    (tmp_path / "target").touch()
    os.utime(tmp_path / "target", OLD)
    for name in ("a.lock", "a.1.part"):
        link = entry(cache, samples[0]).parent / name
        link.symlink_to(tmp_path / "target")
        os.utime(link, OLD, follow_symlinks=False)
    prune(cache, limit=10**9)
    assert not list(cache.rglob("a.*"))
    assert (tmp_path / "target").exists()


def test_prune_leaves_alone_what_is_not_of_a_cache(cache):
    """For instance where `features.cache` names a folder that holds something else, too."""
    names = ("folder/recipe.json", "folder/ab/abc.pooled", "films/mine/one.part")
    foreign = [*(cache / name for name in names), next(section(cache).glob("??")) / "notes.txt"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, OLD)
    prune(cache, limit=0)
    assert all(path.exists() for path in foreign)


def test_the_cache_itself_may_be_a_link(samples, tmp_path):
    (tmp_path / "large_disk").mkdir()
    cache = tmp_path / "cache"
    cache.symlink_to(tmp_path / "large_disk")
    open_reader(cache).pooled(samples)
    again = open_reader(cache)
    again.pooled(samples)
    assert again.n_extracted == 0
    assert sum(len(one.entries) for one in sections(cache)) == 2 * len(samples)
    assert prune(cache, limit=0) == 2 * len(samples)
    assert not list((tmp_path / "large_disk").rglob("*.pooled"))


def test_what_cannot_be_removed_is_told_once(cache, monkeypatch):
    def denied(path, **how):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "unlink", denied)
    with pytest.warns(UserWarning, match="cannot be removed: Operation not permitted") as caught:
        assert prune(cache, limit=0) == 0
    assert len(caught) == 1


def test_a_description_is_read_with_its_key_only(cache):
    path = section(cache) / "recipe.json"
    assert read_json(path, key=section(cache).name)["image_size"] == SIZE
    with pytest.raises(DamagedError):
        read_json(path, key="another")
