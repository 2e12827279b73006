"""Download a published dataset, check its archive's SHA-256, and unpack it in one step."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urljoin, urlsplit

from harness.data.listing import DataError, shown
from harness.data.official import Archive, write_manifest
from harness.system.locks import hold

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_PAUSE_S = 1.0
_MOST_BYTES = 2**34  # received: three times the largest published archive

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all, if known."""


def fetch(archive: Archive, root: Path, *, categories: list[str], progress: Progress) -> Path:
    """Download, verify and extract a dataset; its folder appears in one step at the end.

    An archive of the right name beside the dataset's folder is used, and kept; one that was
    downloaded is deleted in the end. After a `DataError` there is no `root`, and the same call
    resumes the download.
    """
    root = root.resolve()
    if not hasattr(tarfile, "data_filter") or find_spec("_lzma") is None:
        raise DataError("fetch needs Python 3.11.4 or later, with lzma, to unpack archives")
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise DataError(f"'{root}' is already there; remove it to fetch it again")
        root.parent.mkdir(parents=True, exist_ok=True)
        with hold(root.parent / f".{root.name}.lock", patience=0) as held:
            if not held:
                raise DataError(f"'{root}' is being fetched by another process")
            _fetch(archive, root, categories=categories, progress=progress)
    except OSError as error:
        place = error.filename or root
        raise DataError(f"'{place}' cannot be made ({error.strerror or error})") from error
    return root


def download(url: str, target: Path, *, sha256: str, progress: Progress) -> None:
    """Download a file, resuming `<target>.part`; it appears in one step, once its SHA-256 fits.

    After a `DataError` what was received is kept for the next call, unless its digest is wrong or
    it has no end.
    """
    if not url.lower().startswith(("https://", "http://")):
        raise DataError(f"url must start with https:// or http://, got '{shown(url)}'")
    if " " in url or not url.isprintable():
        raise DataError(f"url must hold no blank and no control character, got '{shown(url)}'")
    part = target.with_name(f"{target.name}.part")
    try:
        _receive(url, part, progress=progress)
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"'{shown(str(part))}' cannot be written ({why})") from error
    except _EndlessError as error:
        part.unlink()
        raise DataError(f"{shown(url)}: {error}; what was received was deleted") from error
    found = _file_digest(part)
    if found != sha256:
        part.unlink()
        raise DataError(
            f"{shown(url)}: its SHA-256 must be {sha256}, got {found}; the file was deleted"
        )
    os.replace(part, target)


def _fetch(archive: Archive, root: Path, *, categories: list[str], progress: Progress) -> None:
    packed = root.parent / _file_name(archive.url)
    was_there = packed.exists()
    if not was_there:
        download(archive.url, packed, sha256=archive.sha256, progress=progress)
    elif (found := _file_digest(packed)) != archive.sha256:
        rule = f"its SHA-256 must be {archive.sha256}, got {found}; remove it first"
        raise DataError(f"'{packed}': {rule}")
    _unpack(packed, root, categories=categories)
    if not was_there:
        packed.unlink()


def _file_name(url: str) -> str:
    try:
        name = PurePosixPath(urlsplit(url).path).name
    except ValueError:  # brackets that enclose no IPv6 address
        name = ""
    if name in ("", ".."):
        raise DataError(f"url must end with the name of a file, got '{shown(url)}'")
    return name


def _file_digest(path: Path) -> str:
    with open(_regular(path, os.O_RDONLY), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _regular(path: Path, flags: int) -> int:
    """Return the descriptor of a file, and of nothing to wait for: no pipe, no device."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"'{shown(str(path))}' is not a regular file")
    return descriptor


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


def _receive(url: str, part: Path, *, progress: Progress) -> None:
    """Retry while the connection breaks; the attempts count from the last one with progress."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _resume(url, part, progress=progress)
        except _ConnectionLostError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == _ATTEMPTS:
                rule = f"cannot be downloaded ({error}); the same command resumes it"
                raise DataError(f"{shown(url)}: {rule}") from error
            time.sleep(_PAUSE_S)


def _size(part: Path) -> int:
    return part.lstat().st_size if os.path.lexists(part) else 0


def _resume(url: str, part: Path, *, progress: Progress) -> None:
    """Append what is missing of the file, or write all of it where the server cannot resume."""
    start = _size(part)
    response = _open(url, start)
    if response is None:
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.length  # None where the header is missing or no number
        total = None if length is None else start + length
        free = shutil.disk_usage(part.parent).free
        if length is not None and length > free:
            raise DataError(f"'{part.parent}' has {free:,} bytes free, {length:,} are needed")
        # No link is followed: it would lead to a file of somebody's.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        flags |= os.O_APPEND if resumed else os.O_TRUNC
        with open(_regular(part, flags), "wb") as stream:
            progress(start, total)
            most = min(_MOST_BYTES, start + free)
            for block in _blocks(response, done=start, total=total, most=most):
                stream.write(block)
                start += len(block)
                progress(start, total)


def _open(url: str, start: int) -> http.client.HTTPResponse | None:
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
    """Receive up to byte `total`, or up to the end, which must come before byte `most`."""
    if total is not None and total > most:
        raise _EndlessError(f"{total:,} bytes are too many for an archive")
    while done != total:
        try:  # `read` would wait for the time limit once more after each piece
            block = response.read1(_BLOCK if total is None else min(_BLOCK, total - done))
        except (http.client.HTTPException, OSError) as error:
            raise _ConnectionLostError(shown(str(error))) from error
        done += len(block)
        if done > most:
            raise _EndlessError(f"it does not end after {most:,} bytes")
        if not block and total is not None:
            raise _ConnectionLostError(f"{done} of {total} bytes came")
        if not block:
            return
        yield block


def _unpack(packed: Path, root: Path, *, categories: list[str]) -> None:
    """Extract beside the root, then move the folder that holds the categories into its place."""
    partial = root.parent / f".{root.name}.extracting"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        try:
            if tarfile.is_tarfile(packed):
                with tarfile.open(packed) as tar:
                    tar.extractall(partial, filter="data")
            else:
                with zipfile.ZipFile(packed) as bundle:
                    bundle.extractall(partial)  # noqa: S202 - its SHA-256 is the published one
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{shown(str(packed))} cannot be unpacked ({error})") from error
        found = _dataset_folder(packed, partial, categories=categories)
        files = [path for path in found.rglob("*") if path.is_file()]
        write_manifest(found, {p.relative_to(found).as_posix(): _file_digest(p) for p in files})
        if root.exists():
            root.rmdir()  # it is empty
        os.replace(found, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _dataset_folder(packed: Path, partial: Path, *, categories: list[str]) -> Path:
    """Find the categories right inside the archive or one level down."""
    for folder in (partial, *sorted(partial.iterdir())):
        if all((folder / category).is_dir() for category in categories):
            return folder
    raise DataError(f"'{packed}' does not hold the categories {', '.join(categories)}")
