"""Files that other processes read while they are written, and that may be damaged.

A checksum covers a file's content and its key, that is, what it was kept for. It finds slips: a
flipped bit on a disk, a file edited by hand or moved to another's place.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

LONGEST_NAME = 255 - len(f".{uuid.UUID(int=0).hex}.part")
"""Bytes of a file's name that `write_atomically` can write on the usual filesystems."""

_CHECKSUM_LENGTH = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """A file whose checksum does not fit its content, or the key that it is read for."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that others see complete or not at all, and make its folder if needed.

    The umask decides who may read it. Where the path is a link, the link is replaced.
    """
    part = _write_beside(path, data)
    try:
        _put(part, path)
    finally:
        _remove(part)  # it is there after an error alone


def write_together(files: Mapping[Path, bytes | None]) -> None:
    """Write several files, and remove those that are given None: all, or none after an OSError.

    What takes space is written before anything is replaced: the new files, and copies of the old
    ones, which come back if a later file cannot be replaced.
    """
    new: dict[Path, Path] = {}
    old: dict[Path, Path] = {}
    done: list[Path] = []
    try:
        for path, data in files.items():
            if path.is_file():
                old[path] = _write_beside(path, path.read_bytes())
            if data is not None:
                new[path] = _write_beside(path, data)
        for path in files:
            done.append(path)
            _put(new.get(path), path)
    except BaseException:
        for path in done:
            with suppress(OSError):  # the one that could not be replaced is as it was
                _put(old.get(path), path)
        raise
    finally:
        for part in (*new.values(), *old.values()):
            _remove(part)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read it; a pipe or a device, which might block, is a `DamagedError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # `open` would leave that of a folder open
        raise DamagedError(f"{path} is not a regular file")
    return open(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """Read all of a file that `open_regular` opens; larger than memory, it is a `DamagedError`."""
    with open_regular(path) as file:
        try:
            return file.read()
        except MemoryError as error:
            raise DamagedError(f"{path} is larger than the memory") from error


def add_checksum(content: bytes, *, key: str) -> bytes:
    """Put a checksum over key and content before the content."""
    return _checksum(content, key) + content


def strip_checksum(data: bytes, *, key: str) -> memoryview:
    """Return the content behind its checksum; a `DamagedError` if it has changed, or the key."""
    content = memoryview(data)[_CHECKSUM_LENGTH:]
    if _checksum(content, key) != data[:_CHECKSUM_LENGTH]:
        raise DamagedError("its checksum does not fit its content")
    return content


def write_json(path: Path, content: Any, *, key: str) -> None:
    """Write what JSON can hold, with a checksum over it and its key, as `write_atomically` does."""
    write_atomically(path, json_bytes(content, key=key))


def json_bytes(content: Any, *, key: str) -> bytes:
    """Return what `write_json` writes."""
    kept = {"checksum": _json_checksum(content, key), "content": content}
    return json.dumps(kept, indent=0).encode()


def read_json(path: Path, *, key: str) -> Any:
    """Read back what `write_json` wrote with this key; anything else is a `DamagedError`."""
    data = read_regular(path)
    try:
        kept = json.loads(data)
        content, checksum = kept["content"], kept["checksum"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is not as it was written") from error
    if _json_checksum(content, key) != checksum:
        raise DamagedError(f"{path}: its checksum does not fit its content")
    return content


def _put(part: Path | None, path: Path) -> None:
    try:
        path.unlink(missing_ok=True) if part is None else os.replace(part, path)
    except OSError as error:  # a full disk's error names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_beside(path: Path, data: bytes) -> Path:
    """Write what is to replace a file, under another name in its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
    except BaseException as error:
        _remove(part)
        if isinstance(error, OSError):  # a full disk's error names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return part


def _remove(part: Path) -> None:
    with suppress(OSError):  # gone already, or in a folder where nothing may be removed
        part.unlink()


def _checksum(content: bytes | memoryview, key: str) -> bytes:
    digest = hashlib.sha256(f"{len(key)}:{key}".encode())
    digest.update(content)
    return digest.digest()


def _json_checksum(content: Any, key: str) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return _checksum(text.encode(), key).hex()
