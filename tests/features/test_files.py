"""Files of the cache, as other users and other filesystems meet them."""

from __future__ import annotations

import errno
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from harness.features import reader as reader_module
from harness.features.feature_cache import lock
from harness.features.reader import FeatureReader
from harness.system import locks
from harness.system.files import write_atomically
from tests.features.images import PLAIN, PlainEngine
from tests.features.slow_process import SETTINGS, SIZE


@pytest.fixture
def umask():
    before = os.umask(0o002)
    yield 0o002
    os.umask(before)


def open_reader(cache, monkeypatch):
    monkeypatch.setattr(reader_module, "build_engine", lambda *args, **settings: PlainEngine())
    return FeatureReader(PLAIN, image_size=SIZE, cache=cache, settings=SETTINGS)


def test_the_umask_decides_who_shares_a_cache(samples, tmp_path, monkeypatch, umask):
    open_reader(tmp_path / "cache", monkeypatch).pooled(samples)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").rglob("*.*")}
    assert modes == {0o666 & ~umask}


def deny(monkeypatch, folder, *, reading=False, code=errno.EACCES):
    """Let nobody write in a folder, nor read there, as chmod does for all but root."""

    def denying(function, is_denied):
        def denied(path, *args, **kwargs):
            if Path(os.fsdecode(path)).is_relative_to(folder) and is_denied(*args):
                raise OSError(code, os.strerror(code), str(path))
            return function(path, *args, **kwargs)

        return denied

    changing = os.O_CREAT | os.O_WRONLY | os.O_RDWR
    monkeypatch.setattr(os, "open", denying(os.open, lambda how, *_: reading or how & changing))
    for name in ("mkdir", "unlink", "replace", "utime"):
        monkeypatch.setattr(os, name, denying(getattr(os, name), lambda *_: True))
    opened = denying(io.open, lambda mode="r", *_: reading or mode[0] != "r")
    monkeypatch.setattr(io, "open", opened)


def features_of(reader, samples):
    return reader.pooled(samples), list(reader.maps(samples)), reader.n_extracted


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_without_a_cache_to_write_to_features_last_as_long_as_the_process(
    samples, tmp_path, monkeypatch, code
):
    expected = features_of(open_reader(None, monkeypatch), samples)
    deny(monkeypatch, tmp_path / "cache", code=code)
    reader = open_reader(tmp_path / "cache", monkeypatch)
    with pytest.warns(UserWarning, match=r"^features\.cache='.*' cannot keep .*: '") as caught:
        found = features_of(reader, samples)
    assert len(caught) == 1
    assert reader.pooled(samples[:3]).tobytes() == expected[0][:3].tobytes()
    np.testing.assert_equal(found, expected)
    assert reader.n_extracted == len(samples)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["pooled", "maps"])
def test_a_damaged_entry_that_cannot_be_replaced_is_computed_once(
    samples, tmp_path, monkeypatch, kind
):
    expected = features_of(open_reader(tmp_path / "cache", monkeypatch), samples)
    entry = next((tmp_path / "cache").rglob(f"{samples[4].digest}.{kind}"))
    entry.write_bytes(entry.read_bytes()[:-1])
    deny(monkeypatch, tmp_path / "cache")
    reader = open_reader(tmp_path / "cache", monkeypatch)
    with pytest.warns(UserWarning, match="made again|cannot keep") as caught:
        found = features_of(reader, samples)
    assert ["cannot keep" in str(one.message) for one in caught] == [False, True]
    np.testing.assert_equal(found[:2], expected[:2])
    np.testing.assert_equal(list(reader.maps(samples)), expected[1])
    assert reader.n_extracted == 1


def test_a_cache_that_may_not_be_read_is_computed(samples, tmp_path, monkeypatch):
    expected = features_of(open_reader(tmp_path / "cache", monkeypatch), samples)
    deny(monkeypatch, tmp_path / "cache", reading=True)
    with pytest.warns(UserWarning, match="made again: Permission|cannot keep") as caught:
        found = features_of(open_reader(tmp_path / "cache", monkeypatch), samples)
    np.testing.assert_equal(found, expected)
    assert ["cannot keep" in str(one.message) for one in caught] == [False, True]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(samples, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o555)
    expected = features_of(open_reader(None, monkeypatch), samples)
    with pytest.warns(UserWarning, match="cannot keep everything"):
        found = features_of(open_reader(tmp_path / "cache", monkeypatch), samples)
    np.testing.assert_equal(found, expected)


def test_a_full_disk_is_no_cache_to_go_without(samples, tmp_path, monkeypatch):
    deny(monkeypatch, tmp_path / "cache", code=errno.EDQUOT)
    with pytest.raises(OSError, match=r"quota.*cache"):
        open_reader(tmp_path / "cache", monkeypatch).pooled(samples)


def test_an_image_that_may_not_be_read_is_no_fault_of_the_cache(samples, tmp_path, monkeypatch):
    reader = open_reader(tmp_path / "cache", monkeypatch)

    def denied(path, digest):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("harness.features.inputs.read_file", denied)
    with pytest.raises(PermissionError, match=r"images.*\.png"):
        reader.pooled(samples)


def test_a_filesystem_without_locks_is_warned_of_once(tmp_path, monkeypatch):
    def without(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_warned", set())
    monkeypatch.setattr("fcntl.flock", without)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a", "b"):
            with lock(tmp_path / name, wait=False) as mine:
                assert mine
    assert ["No locks available" in str(one.message) for one in caught] == [True]


def test_other_faults_of_locking_are_errors(tmp_path, monkeypatch):
    def broken(file, how):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output"), lock(tmp_path / "a", wait=False):
        pass


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [one.name for one in path.parent.iterdir()] == ["file"]
