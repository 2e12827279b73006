"""What becomes of an archive."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from harness.data import DataError
from tests.data.serving import archive_of, fetch_to, left_in


def test_the_wrong_archive(server, tmp_path):
    content = _tar("cat/train/good/000.png")
    with pytest.raises(DataError, match="does not hold the categories bottle"):
        fetch_to(archive_of(server, content), tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()


def _tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            bundle.addfile(member, io.BytesIO(b"evil"))
    return buffer.getvalue()


def test_a_zip_archive(server, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("top/bottle/x", "content")
    root = fetch_to(archive_of(server, buffer.getvalue()), tmp_path / "mvtec")
    assert (root / "bottle/x").read_text() == "content"


@pytest.mark.parametrize("content", [b"no archive", b"PK\3\4"])
def test_what_cannot_be_unpacked_is_one_line(server, tmp_path, content):
    """Its digest is the published one all the same."""
    with pytest.raises(DataError, match=r"data.tar cannot be unpacked \("):
        fetch_to(archive_of(server, content), tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()


@pytest.mark.parametrize("name", ["../evil", "bottle/../../evil", "/tmp/evil"])
def test_nothing_is_written_outside_the_folder(server, tmp_path, name):
    folder = tmp_path / "outer/inner"
    with contextlib.suppress(DataError):
        fetch_to(archive_of(server, _tar(name, "bottle/x")), folder / "mvtec")
    assert left_in(tmp_path) == {"outer"}
    assert not Path("/tmp/evil").exists()
