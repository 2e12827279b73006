"""From a dataset's name to its folder, complete or absent."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from harness.data.archives import Archive
from harness.data.download import Progress, download, file_digest
from harness.data.errors import DataError
from harness.data.extract import extract
from harness.data.listing import shown
from harness.data.manifest import write_manifest
from harness.locks import hold

log = logging.getLogger(__name__)


def fetch(archive: Archive, root: Path, *, categories: list[str], progress: Progress) -> Path:
    """Download, verify and extract a dataset; its folder appears in one step at the end.

    An archive of the right name beside the dataset's folder is used, and kept; one that was
    downloaded is deleted in the end.

    Parameters
    ----------
    archive : Archive
        What to fetch.
    root : Path
        The dataset's folder. It must not exist yet, or be empty.
    categories : list of str
        The folders that the dataset must hold.
    progress : callable
        Called with the bytes so far and in all while downloading.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    DataError
        If any step fails; `root` then does not exist, and the same command goes on where the
        download stopped.
    """
    root = root.resolve()
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise DataError(f"'{root}' is already there; remove it to fetch it anew")
        root.parent.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            _fetch(archive, root, categories=categories, progress=progress)
    except OSError as error:
        place = error.filename or root
        raise DataError(f"'{place}' cannot be made ({error.strerror or error})") from error
    return root


def _fetch(archive: Archive, root: Path, *, categories: list[str], progress: Progress) -> None:
    packed = root.parent / _file_name(archive.url)
    own = packed.exists()
    if own:
        _check_digest(packed, archive.sha256)
    else:
        download(archive.url, packed, sha256=archive.sha256, progress=progress)
    _unpack(packed, root, categories=categories)
    if not own:
        packed.unlink()


def _file_name(url: str) -> str:
    """Return the archive's name on disk."""
    try:
        name = PurePosixPath(urlsplit(url).path).name
    except ValueError:  # brackets that enclose no IPv6 address
        name = ""
    if name in ("", ".."):
        raise DataError(f"url must end with the name of a file, got '{shown(url)}'")
    return name


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let one process at a time fetch into a folder."""
    with hold(root.parent / f".{root.name}.lock", patience=0) as alone:
        if not alone:
            raise DataError(f"'{root}' is being fetched by another process")
        yield


def _check_digest(packed: Path, sha256: str) -> None:
    found = file_digest(packed)
    if found != sha256:
        raise DataError(f"'{packed}': its SHA-256 must be {sha256}, got {found}; remove it first")


def _unpack(packed: Path, root: Path, *, categories: list[str]) -> None:
    """Extract beside the root, then move the folder that holds the categories into its place."""
    partial = root.parent / f".{root.name}.extracting"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        digests = extract(packed, partial)
        found = _dataset_folder(packed, partial, categories=categories)
        write_manifest(found, _below(digests, found.relative_to(partial)))
        if root.exists():
            root.rmdir()  # it is empty
        os.replace(found, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _below(digests: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Name the files relative to a folder of the archive."""
    prefix = "" if folder == Path() else f"{folder.as_posix()}/"
    return {
        name.removeprefix(prefix): digest
        for name, digest in digests.items()
        if name.startswith(prefix)
    }


def _dataset_folder(packed: Path, partial: Path, *, categories: list[str]) -> Path:
    """Find the categories right inside the archive or one level down."""
    for folder in (partial, *sorted(partial.iterdir())):
        if all((folder / category).is_dir() for category in categories):
            return folder
    raise DataError(f"'{packed}' does not hold the categories {', '.join(categories)}")
