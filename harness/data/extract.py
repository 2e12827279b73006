"""Extraction that trusts no archive: plain files below the target, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO

from harness.data.errors import DataError

_BLOCK = 1 << 20
_ZIP = b"PK\3\4"
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # a zip file with a password
)


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
        If a member is a link or a device, or would lie outside the target or over another
        member; if the archive is damaged, or the disk is full.
    """
    digests = {}
    try:
        with contextlib.closing(_members(archive)) as members:
            for name, stream in members:
                _check_name(archive, name)
                digest = _write(target / name, stream, what=f"{archive}: '{name}'")
                digests[str(PurePosixPath(name))] = digest
    except _DAMAGED as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"{archive}: is damaged ({why})") from error
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
            stream = bundle.extractfile(member) if member.isreg() else None
            if stream is None:
                raise DataError(f"{archive}: '{member.name}' is a link or device, not a file")
            yield member.name, stream


def _zip_members(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise DataError(f"{archive}: '{member.filename}' is a link or device, not a file")
            with bundle.open(member) as stream:
                yield member.filename, stream


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DataError(f"{archive}: '{name}' would lie outside the target folder")


def _write(place: Path, stream: IO[bytes], *, what: str) -> str:
    digest = hashlib.sha256()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            while block := stream.read(_BLOCK):
                out.write(block)
                digest.update(block)
    except FileExistsError as error:
        raise DataError(f"{what} lies over another member") from error
    except OSError as error:
        raise DataError(f"{what} cannot be extracted ({error.strerror or error})") from error
    return digest.hexdigest()
