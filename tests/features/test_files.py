"""Files of the cache, as other users and other filesystems meet them."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest

from harness.atomic import write_atomically
from harness.features import FeatureReader, claims
from harness.features import reader as reader_module
from harness.features.claims import claim
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


def deny(monkeypatch, method):
    original = getattr(Path, method)

    def denied(self, *args, **kwargs):
        if "cache" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, method, denied)


@pytest.mark.parametrize("method", ["read_bytes", "write_bytes", "open", "mkdir"])
def test_a_cache_of_another_user_is_named_in_one_line(samples, tmp_path, monkeypatch, method):
    reader = open_reader(tmp_path / "cache", monkeypatch)
    deny(monkeypatch, method)
    with pytest.raises(PermissionError, match=r"^features\.cache must be .* denied: .*$") as caught:
        reader.pooled(samples)
    assert str(tmp_path / "cache") in str(caught.value)


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

    claims._warn.cache_clear()
    monkeypatch.setattr("fcntl.flock", without)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a", "b"):
            with claim(tmp_path / name, wait=False) as mine:
                assert mine
    assert ["No locks available" in str(one.message) for one in caught] == [True]


def test_other_faults_of_locking_are_errors(tmp_path, monkeypatch):
    def broken(file, how):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output"), claim(tmp_path / "a", wait=False):
        pass


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [one.name for one in path.parent.iterdir()] == ["file"]
