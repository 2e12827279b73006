"""What an archive may hold, and what becomes of one that means harm."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from harness.data import DataError, fetch
from tests.data.serving import archive_of, fetch_to, left_in


def test_the_wrong_archive(server, tmp_path):
    content = _tar(("cat/train/good/000.png", None))
    with pytest.raises(DataError, match="does not hold the categories bottle"):
        fetch_to(archive_of(server, content), tmp_path / "mvtec")
    assert not (tmp_path / "mvtec").exists()


def _tar(*members: tuple[str, dict | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name, attributes in members:
            member = tarfile.TarInfo(name)
            for key, value in (attributes or {}).items():
                setattr(member, key, value)
            member.size = 4 if member.isreg() else 0
            bundle.addfile(member, io.BytesIO(b"evil"))
    return buffer.getvalue()


def _zip(name: str, mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        bundle.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 255]) + data[41:]


def _sparse() -> bytes:
    """A GNU tar with a terabyte of nothing (GNU tar manual, "Storing Sparse Files")."""
    member = tarfile.TarInfo("bottle/hole.png")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def _growing(form: str) -> bytes:
    """An archive of a few thousand bytes with 2 MiB of zeros."""
    buffer = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("bottle/zeros.png", bytes(2**21))
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{form}") as bundle:
            member = tarfile.TarInfo("bottle/zeros.png")
            member.size = 2**21
            bundle.addfile(member, io.BytesIO(bytes(2**21)))
    return buffer.getvalue()


def _pax(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as bundle:
        member = tarfile.TarInfo("x")
        member.pax_headers = {"path": name}
        bundle.addfile(member, io.BytesIO())
    return buffer.getvalue()


MALICIOUS = {
    "sparse": (_sparse(), "'bottle/hole.png' is a link or device, not a file"),
    "escape sequence": (_tar(("bottle/../\x1b[2J\n", None)), r"bottle/../\\x1b\[2J\\n'+ would"),
    "zip escape sequence": (_zip("../\x1b[2J"), r"\\x1b\[2J'+ would lie outside"),
    "no byte of a name": (_pax("bottle/a\0b"), "is damaged"),
    "long name": (_pax("bottle/" + "x" * 300), "cannot be extracted .File name too long"),
    "cut gzip": (gzip.compress(_tar(("bottle/x", None)))[:-20], "is damaged|cannot be extracted"),
    "cut bzip2": (bz2.compress(_tar(("bottle/x", None)))[:-20], "is damaged|cannot be extracted"),
    "flipped bzip2": (_flipped(bz2.compress(_tar(("bottle/x", None)))), "is damaged|cannot be ext"),
    "parent": (_tar(("../evil", None)), r"'../evil' would lie outside"),
    "inner parent": (_tar(("bottle/../../evil", None)), "would lie outside"),
    "absolute": (_tar(("/tmp/evil", None)), "would lie outside"),
    "backslash": (_tar(("..\\evil", None)), "would lie outside"),
    "symlink": (_tar(("bottle/x", {"type": tarfile.SYMTYPE, "linkname": "/etc"})), "a link or"),
    "hard link": (_tar(("bottle/x", {"type": tarfile.LNKTYPE, "linkname": "y"})), "a link or"),
    "device": (_tar(("bottle/x", {"type": tarfile.CHRTYPE})), "is a link or device"),
    "pipe": (_tar(("bottle/x", {"type": tarfile.FIFOTYPE})), "is a link or device"),
    "through a link": (
        _tar(("bottle", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("bottle/evil", None)),
        "'bottle' is a link or device",
    ),
    "twice": (_tar(("bottle/x", None), ("bottle/x", None)), "'bottle/x' lies over another member"),
    "file as folder": (_tar(("bottle", None), ("bottle/x", None)), "'bottle/x' "),
    "zip parent": (_zip("../evil"), "would lie outside"),
    "zip absolute": (_zip("/tmp/evil"), "would lie outside"),
    "zip symlink": (_zip("bottle/x", stat.S_IFLNK | 0o777), "'bottle/x' is a link or device"),
    "no archive": (b"hello " * 1000, "is damaged"),
    "cut zip": (_zip("bottle/x")[:40], "is damaged"),
    "cut archive": (_tar(("bottle/x", None))[:600], "is damaged|does not hold"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_archive_writes_nothing(server, tmp_path, name):
    content, message = MALICIOUS[name]
    folder = tmp_path / "outer/inner"
    with pytest.raises(DataError, match=message) as caught:
        fetch_to(archive_of(server, content), folder / "mvtec")
    assert "\n" not in str(caught.value)
    assert left_in(folder) == {"data.tar", ".mvtec.lock"}
    assert left_in(tmp_path) == {"outer"}
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("form", ["zip", "xz", "gz"])
def test_an_archive_that_grows_without_measure_is_given_up(server, tmp_path, monkeypatch, form):
    monkeypatch.setattr(fetch, "_BLOCK", 2**12)
    monkeypatch.setattr(fetch, "_MOST_GROWTH", 20)
    with pytest.raises(DataError, match=r"data.tar: unpacks to more than 20 times its size"):
        fetch_to(archive_of(server, _growing(form)), tmp_path / "mvtec")
    assert left_in(tmp_path) == {"data.tar", ".mvtec.lock"}


def test_too_many_members_are_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_MOST_FILES", 3)
    members = [(f"bottle/{number}", None) for number in range(4)]
    fetch_to(archive_of(server, _tar(*members[:3])), tmp_path / "three")
    with pytest.raises(DataError, match=r"data.tar: holds more than 3 files"):
        fetch_to(archive_of(server, _tar(*members)), tmp_path / "four")


def test_modes_are_not_taken_over(server, packed, tmp_path):
    content = _tar(("bottle/x", {"mode": 0o4777}), ("bottle/y", {"mode": 0}))
    root = fetch_to(archive_of(server, content), tmp_path / "mvtec")
    for name in ("x", "y"):
        mode = stat.S_IMODE(os.stat(root / "bottle" / name).st_mode)
        assert mode & 0o7111 == 0
        assert mode & 0o400


def test_a_zip_archive(server, tmp_path):
    root = fetch_to(archive_of(server, _zip("top/bottle/x")), tmp_path / "mvtec")
    assert (root / "bottle/x").read_text() == "/etc/passwd"
