"""What is in the feature cache, whether it is sound, and how it is kept small."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.features.feature_cache import DESCRIPTION, entry_key, linked_folder, lock
from harness.system.files import DamagedError, read_json, read_regular, strip_checksum
from harness.system.locks import warn_once
from harness.system.terminal import shown

_ABANDONED = 3600.0
"""Seconds after which a half-written file belongs to no living process."""

_KEY = re.compile(r"[0-9a-f]{32}")
"""How the folder of a section is called: of other folders in the cache's place nothing is ours."""


class Entry(NamedTuple):
    """One file of the cache, its size in bytes, and when it was last used, since the epoch."""

    path: Path
    size: int
    used: float


class Section(NamedTuple):
    """The entries of one key, and the fields of its description: none if that is damaged."""

    key: str
    fields: dict[str, Any]
    entries: list[Entry]


def sections(cache: Path) -> list[Section]:
    """List the sections of a cache, by key; damaged descriptions and links cause a warning."""
    return [
        Section(folder.name, _fields(folder / DESCRIPTION), list(_entries(folder)))
        for folder in _folders(cache)
    ]


def damaged(cache: Path) -> Iterator[Path]:
    """Read every entry and yield those that cannot be read or whose checksum does not fit."""
    for section in sections(cache):
        for entry in section.entries:
            try:
                strip_checksum(read_regular(entry.path), key=entry_key(entry.path))
            except FileNotFoundError:
                if entry.path.is_symlink():  # else evicted meanwhile
                    yield entry.path
            except (DamagedError, OSError):
                yield entry.path


def prune(cache: Path, *, limit: int) -> int:
    """Remove the least recently used entries down to `limit` bytes; return how many they were."""
    _remove_abandoned(cache)
    entries = sorted(
        (entry for section in sections(cache) for entry in section.entries),
        key=lambda entry: entry.used,
    )
    excess = sum(entry.size for entry in entries) - limit
    n_removed = 0
    for entry in entries:
        if excess <= 0:
            break
        if _removed(entry.path):
            excess -= entry.size
            n_removed += 1
    return n_removed


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        folder = path.parent.parent
        warn_once(f"{path} cannot be removed: {error.strerror}", about=f"{folder}: removal")
        return False
    return True


def _folders(cache: Path) -> Iterator[Path]:
    for description in sorted(cache.glob(f"*/{DESCRIPTION}")):
        folder = description.parent
        if _KEY.fullmatch(folder.name) and _is_own(description, cache=cache):
            yield folder


def _is_own(path: Path, *, cache: Path) -> bool:
    """Tell whether a file lies in the cache's own folders, and name a link that is none."""
    link = linked_folder(path, cache=cache)
    if link is not None:
        warn_once(f"{link} is a link, which is left alone", about=f"{link} in the cache")
    return link is None


def _fields(description: Path) -> dict[str, Any]:
    try:
        fields = read_json(description, key=description.parent.name)
    except FileNotFoundError:  # another process's eviction
        return {}
    except (DamagedError, OSError) as error:
        reason = getattr(error, "strerror", None) or "it is not as this version writes it"
        warnings.warn(shown(f"{description} is damaged: {reason}"), stacklevel=2)
        return {}
    return fields if isinstance(fields, dict) else {}


def _entries(folder: Path) -> Iterator[Entry]:
    """Yield what lies in an entry's place, whatever it is."""
    for path in folder.glob("??/*"):
        if path.suffix in (".lock", ".part") or not path.name.startswith(path.parent.name):
            continue
        with suppress(OSError):  # another process's eviction
            if _is_own(path, cache=folder.parent):
                status = path.lstat()
                yield Entry(path, status.st_size, status.st_mtime)


def _remove_abandoned(cache: Path) -> None:
    """Remove what killed processes left: half-written files, and locks that nobody holds."""
    for path in _left(cache, "*.part"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _ABANDONED:
                path.unlink()
    for path in _left(cache, "*.lock"):
        with suppress(OSError), lock(path, wait=False):
            pass  # the file goes with its lock


def _left(cache: Path, pattern: str) -> Iterator[Path]:
    """Yield files in the cache's own folders."""
    for folder in [*_folders(cache), cache / "backbones"]:
        for place in (pattern, f"??/{pattern}"):
            for path in folder.glob(place):
                if _is_own(path, cache=cache):
                    yield path
