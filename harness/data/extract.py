"""Extraction that trusts no archive: plain files below the target, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import stat
import tarfile
import zipfile
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO

from harness.data.errors import DataError
from harness.data.listing import shown

_BLOCK = 1 << 20
_ZIP = b"PK\3\4"
# Far beyond the published datasets: of members, and of their bytes for one of the archive.
_MOST_FILES = 500_000
_MOST_GROWTH = 200


def extract(archive: Path, target: Path) -> dict[str, str]:
    """Write the files of a tar or zip archive below a folder.

    Folders and plain files only; owners, modes and times are not taken over.

    Parameters
    ----------
    archive : Path
        The archive.
    target : Path
        An empty folder. After an error it may hold some of the files.

    Returns
    -------
    dict of str to str
        The SHA-256 of every file, hexadecimal, by name relative to the target.

    Raises
    ------
    DataError
        If a member is a link, a device or sparse, or would lie outside the target or over
        another member; if there are too many, or too large ones for such an archive; if the
        archive is damaged, or the disk is full.
    """
    digests: dict[str, str] = {}
    room = _MOST_GROWTH * max(archive.stat().st_size, _BLOCK)
    try:
        with contextlib.closing(_members(archive)) as members:
            for name, stream in itertools.islice(members, _MOST_FILES + 1):
                if len(digests) == _MOST_FILES:
                    raise DataError(f"holds more than {_MOST_FILES:,} files")
                place = target / _safe(name)
                digests[str(PurePosixPath(name))], size = _write(place, stream, name, room=room)
                room -= size
    except DataError as error:
        raise DataError(f"{shown(str(archive))}: {error}") from error
    except Exception as error:  # damage makes decompressors raise anything
        why = shown(str(error).partition("\n")[0])
        raise DataError(f"{shown(str(archive))}: is damaged ({why})") from error
    return digests


def _members(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    with archive.open("rb") as stream:
        start = stream.read(len(_ZIP))
    # zipfile.is_zipfile would take a tar that ends with a zip file for one.
    if start == _ZIP:
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _tar_members(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as bundle:
        for member in bundle:
            if member.isdir():
                continue
            plain = member.isreg() and not member.issparse()
            stream = bundle.extractfile(member) if plain else None
            if stream is None:
                raise DataError(f"'{shown(member.name)}' is a link or device, not a file")
            yield member.name, stream


def _zip_members(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise DataError(f"'{shown(member.filename)}' is a link or device, not a file")
            with bundle.open(member) as stream:
                yield member.filename, stream


def _safe(name: str) -> str:
    """Refuse the name of a member that leads out of the target folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DataError(f"'{shown(name)}' would lie outside the target folder")
    return name


def _write(place: Path, stream: IO[bytes], name: str, *, room: int) -> tuple[str, int]:
    """Write a member of at most `room` bytes; return its SHA-256 and its size."""
    digest = hashlib.sha256()
    size = 0
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            while block := stream.read(_BLOCK):
                size += len(block)
                if size > room:
                    raise DataError(f"unpacks to more than {_MOST_GROWTH} times its size")
                out.write(block)
                digest.update(block)
    except FileExistsError as error:
        raise DataError(f"'{shown(name)}' lies over another member") from error
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"'{shown(name)}' cannot be extracted ({why})") from error
    return digest.hexdigest(), size
