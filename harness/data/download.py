"""Downloads that resume where they broke and end with the right digest, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from harness.data.errors import DataError
from harness.data.listing import shown

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all, if known."""

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_PAUSE_S = 1.0
_MOST_BYTES = 2**34
"""No more is received: three times the largest published archive."""


class _ConnectionLostError(Exception):
    """The server stopped before the end; what came is kept."""


class _EndlessError(Exception):
    """The server sends more than any archive holds, or than the disk takes."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects within the web (urllib would go to ftp, too), and none that gives up TLS."""

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> http.client.HTTPResponse | None:
        fp.close()  # or all of its body is read, which may be endless
        target = urljoin(req.full_url, headers.get("location", headers.get("uri", "")))
        schemes = ["https"] if req.type == "https" else ["https", "http"]
        if urlsplit(target).scheme not in schemes:
            rule = f"redirects to {target!a}, which must start with "
            rule += " or ".join(f"{scheme}://" for scheme in schemes)
            raise DataError(f"{shown(req.full_url)}: {rule}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_OPENER = urllib.request.build_opener(_Redirects)


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
        the next call), the disk is full, or the digest is wrong or there is no end (what came is
        deleted).
    """
    if not url.lower().startswith(("https://", "http://")):
        raise DataError(f"url must start with https:// or http://, got '{shown(url)}'")
    if " " in url or not url.isprintable():
        raise DataError(f"url must hold no blank and no control character, got '{shown(url)}'")
    part = target.with_name(f"{target.name}.part")
    try:
        _receive_all(url, part, progress=progress)
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"'{shown(str(part))}' cannot be written ({why})") from error
    except _EndlessError as error:
        part.unlink()
        raise DataError(f"{shown(url)}: {error}; what came was deleted") from error
    found = file_digest(part)
    if found != sha256:
        part.unlink()
        raise DataError(f"{shown(url)}: its SHA-256 must be {sha256}, got {found}; it was deleted")
    os.replace(part, target)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal.

    Raises
    ------
    DataError
        If it is no regular file.
    OSError
        If it cannot be read.
    """
    with open(_regular(path, os.O_RDONLY), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _regular(path: Path, flags: int) -> int:
    """Return the descriptor of a file, and of nothing to wait for: no pipe, no device."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"'{shown(str(path))}' is not a regular file")
    return descriptor


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
                raise DataError(f"{shown(url)}: {rule}") from error
            time.sleep(_PAUSE_S)


def _size(part: Path) -> int:
    return part.lstat().st_size if os.path.lexists(part) else 0


def _continue(url: str, part: Path, *, progress: Progress) -> None:
    """Append what is missing of the file, or write all of it where the server cannot resume."""
    start = _size(part)
    response = _ask(url, start)
    if response is None:
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.length  # None where the header is missing or no number
        total = None if length is None else start + length
        most = min(_MOST_BYTES, start + _free(part, needed=length or 0))
        # No link is followed: it would lead to a file of somebody's.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        flags |= os.O_APPEND if resumed else os.O_TRUNC
        with open(_regular(part, flags), "wb") as stream:
            progress(start, total)
            for block in _blocks(response, done=start, total=total, most=most):
                stream.write(block)
                start += len(block)
                progress(start, total)


def _ask(url: str, start: int) -> http.client.HTTPResponse | None:
    """Open the connection; None if the server has nothing beyond `start`."""
    headers = {"User-Agent": "dfkde-benchmark"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        return _OPENER.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None
        answer = f"{error.code} {shown(str(error.reason))}"
        raise DataError(f"{shown(url)}: the server answered {answer}") from error
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionLostError(shown(str(getattr(error, "reason", error)))) from error
    except DataError:
        raise
    except ValueError as error:
        why = shown(str(error))
        raise DataError(f"{shown(url)}: it or its redirect is malformed ({why})") from error


def _blocks(
    response: http.client.HTTPResponse, *, done: int, total: int | None, most: int
) -> Iterator[bytes]:
    """Receive up to byte `total`, or up to the end, of which there is none beyond byte `most`."""
    if total is not None and total > most:
        raise _EndlessError(f"{total:,} bytes are too many for an archive")
    while done != total:
        block = _receive(response, _BLOCK if total is None else min(_BLOCK, total - done))
        done += len(block)
        if done > most:
            raise _EndlessError(f"it does not end after {most:,} bytes")
        if not block and total is not None:
            raise _ConnectionLostError(f"{done} of {total} bytes came")
        if not block:
            return
        yield block


def _receive(response: http.client.HTTPResponse, n_bytes: int) -> bytes:
    """Wait for some bytes, at most `_TIMEOUT_S`: `read` would wait anew after each."""
    try:
        return response.read1(n_bytes)
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionLostError(shown(str(error))) from error


def _free(part: Path, *, needed: int) -> int:
    """Return the bytes that the disk has free."""
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(f"'{part.parent}' has {free:,} bytes free, {needed:,} are needed")
    return free
