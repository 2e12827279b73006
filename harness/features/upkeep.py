"""Looking after the cache: what is in it, whether it is sound, and how it is kept small."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.features.claims import claim
from harness.features.entries import DamagedError, unseal
from harness.show import shown

_ABANDONED = 3600.0
"""Seconds after which a half-written file belongs to no living process."""

_PARTS = ("*/*/*.part", "*/recipe.json.*.part", "backbones/*.part")


class Entry(NamedTuple):
    """One file of the cache.

    Attributes
    ----------
    path : Path
        The file.
    size : int
        Its size in bytes.
    used : float
        When it was last written or read, in seconds since the epoch.
    """

    path: Path
    size: int
    used: float


class Section(NamedTuple):
    """All entries of one recipe.

    Attributes
    ----------
    key : str
        The recipe's key, which names its folder.
    recipe : dict
        The fields of `Recipe`, or of `Graph` for a translated network; empty if they are damaged.
    entries : list of Entry
        In no particular order.
    """

    key: str
    recipe: dict[str, Any]
    entries: list[Entry]


def sections(cache: Path) -> list[Section]:
    """List the recipes in a cache folder, by key.

    Warns
    -----
    UserWarning
        If a recipe is damaged; it is written anew with the next entry.
    """
    return [
        Section(path.parent.name, _fields(path), list(_entries(path.parent)))
        for path in sorted(cache.glob("*/recipe.json"))
    ]


def damaged(cache: Path) -> Iterator[Path]:
    """Read every entry and yield those whose checksum does not fit."""
    for section in sections(cache):
        for entry in section.entries:
            try:
                unseal(entry.path.read_bytes())
            except FileNotFoundError:  # evicted meanwhile
                continue
            except DamagedError:
                yield entry.path


def prune(cache: Path, *, limit: int) -> int:
    """Remove the least recently used entries until the cache is small enough.

    Parameters
    ----------
    cache : Path
        The cache folder.
    limit : int
        Size in bytes above which entries go.

    Returns
    -------
    int
        Number of entries removed.
    """
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
        entry.path.unlink(missing_ok=True)
        excess -= entry.size
        n_removed += 1
    return n_removed


def _fields(description: Path) -> dict[str, Any]:
    try:
        fields = json.loads(description.read_text(encoding="utf-8"))
        return dict(fields)
    except FileNotFoundError:  # another process's eviction
        return {}
    except (ValueError, TypeError) as error:
        warnings.warn(shown(f"{description} is damaged: {error}"), stacklevel=2)
        return {}


def _entries(folder: Path) -> Iterator[Entry]:
    for path in folder.glob("*/*"):
        if path.suffix in (".lock", ".part"):
            continue
        with suppress(FileNotFoundError):  # another process's eviction
            status = path.stat()
            yield Entry(path, status.st_size, status.st_mtime)


def _remove_abandoned(cache: Path) -> None:
    """Remove what killed processes left: half-written files, and claims that nobody holds."""
    for pattern in _PARTS:
        for path in cache.glob(pattern):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
    for description in cache.glob("*/recipe.json"):
        for path in description.parent.glob("*/*.lock"):
            with claim(path, wait=False):
                pass  # a claim's file goes with it
