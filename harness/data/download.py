"""Downloads that resume where they broke and end with the right digest, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from harness.data.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all, if known."""

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_PAUSE_S = 1.0


class _ConnectionLostError(Exception):
    """The server stopped before the end; what came is kept."""


def download(url: str, target: Path, *, sha256: str, progress: Progress) -> None:
    """Bring a file from a server, resuming `<target>.part` if there is one.

    Parameters
    ----------
    url : str
        An http or https address.
    target : Path
        Appears in one step, once whole and right.
    sha256 : str
        What its bytes must digest to.
    progress : callable
        Called as bytes come.

    Raises
    ------
    DataError
        If the server cannot be reached or keeps breaking off (what came is kept, and resumed by
        the next call), the disk is full, or the digest is wrong (what came is deleted).
    """
    if not url.startswith(("https://", "http://")):
        raise DataError(f"url must start with https:// or http://, got '{url}'")
    part = target.with_name(f"{target.name}.part")
    try:
        _receive_all(url, part, progress=progress)
    except OSError as error:
        raise DataError(f"'{part}' cannot be written ({error.strerror or error})") from error
    found = file_digest(part)
    if found != sha256:
        part.unlink()
        raise DataError(f"{url}: its SHA-256 must be {sha256}, got {found}; it was deleted")
    os.replace(part, target)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _receive_all(url: str, part: Path, *, progress: Progress) -> None:
    """Ask again while the connection breaks; progress made starts the count of attempts anew."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _continue(url, part, progress=progress)
        except _ConnectionLostError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == _ATTEMPTS:
                rule = f"cannot be downloaded ({error}); the same command resumes it"
                raise DataError(f"{url}: {rule}") from error
            time.sleep(_PAUSE_S)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue(url: str, part: Path, *, progress: Progress) -> None:
    """Append what is missing of the file, or write all of it where the server cannot resume."""
    start = _size(part)
    response = _ask(url, start)
    if response is None:
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        _check_space(part, needed=int(length or 0))
        with part.open("ab" if resumed else "wb") as stream:
            _copy(response, stream, done=start, total=total, progress=progress)


def _ask(url: str, start: int) -> http.client.HTTPResponse | None:
    """Open the connection; None if the server has nothing beyond `start`."""
    request = urllib.request.Request(url, headers={"User-Agent": "dfkde-benchmark"})  # noqa: S310
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None
        raise DataError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionLostError(getattr(error, "reason", error)) from error


def _copy(
    response: IO[bytes],
    stream: IO[bytes],
    *,
    done: int,
    total: int | None,
    progress: Progress,
) -> None:
    progress(done, total)
    while block := _receive(response):
        stream.write(block)
        done += len(block)
        progress(done, total)
    if total is not None and done < total:
        raise _ConnectionLostError(f"{done} of {total} bytes came")


def _receive(response: IO[bytes]) -> bytes:
    try:
        return response.read(_BLOCK)
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionLostError(str(error)) from error


def _check_space(part: Path, *, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(f"'{part.parent}' has {free:,} bytes free, {needed:,} are needed")
