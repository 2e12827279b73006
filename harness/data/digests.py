"""The on-disk cache of inspections: a file is read again only when it changed.

It is a JSON file beside the data, `<root>/.dfkde/<category>.json`, or in the user's cache folder
where the data may not be written to. A file counts as unchanged while its size and its times of
modification and of status change (in ns) are the same. The last of these tells two files apart that
were swapped by renaming, which archives of whole-second times would hide.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from harness.data.inspection import Inspection
from harness.data.listing import shown
from harness.system.files import DamagedError, read_json, write_json

_VERSION = 3
"""Raised by whatever changes which files count as sound, or what is seen of them."""

log = logging.getLogger(__name__)


class InspectionCache:
    """The inspections of one category, each with the `stamp` of the file that was read."""

    def __init__(self, root: Path, category: str) -> None:
        self._key = f"inspections of {category}"
        self._places = _places(root, category)
        loaded = [_load(place, self._key) for place in self._places]
        self._entries = [entries for entries in loaded if entries]
        for place, entries in zip(self._places, loaded, strict=True):
            if entries is None and not self._entries:
                log.warning("%s is damaged; the files are read again", shown(str(place)))

    def find(self, key: str, stamp: str) -> Inspection | None:
        """Return the inspection of a file, or None if the file is new or changed."""
        for entries in self._entries:
            entry = entries.get(key, "")
            if entry.startswith(f"{stamp} "):
                digest, *numbers = entry.removeprefix(stamp).split()
                width, height, defect_pixels, synthetic = map(int, numbers)
                return Inspection(digest, width, height, defect_pixels, bool(synthetic))
        return None

    def save(self, found: Mapping[str, tuple[str, Inspection]]) -> None:
        """Write all inspections to the first place that can be written; else do without."""
        entries = {
            key: " ".join(map(str, (stamp, seen.digest, *map(int, seen[1:]))))
            for key, (stamp, seen) in found.items()
        }
        for place in self._places:
            with contextlib.suppress(OSError):
                write_json(place, {"version": _VERSION, "files": entries}, key=self._key)
                return


def _places(root: Path, category: str) -> list[Path]:
    root = root.resolve()
    places = []
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        places = [cache / "dfkde" / "digests" / key / f"{category}.json"]
    beside = root / ".dfkde"
    # A link could lead to a folder of somebody's that has a file of that name.
    if beside.is_symlink() or _is_read_only(root):
        return places
    return [beside / f"{category}.json", *places]


def _is_read_only(root: Path) -> bool:
    """Tell an installed package and a folder marked read-only (which root could write to)."""
    places = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    installed = any(root.is_relative_to(Path(place).resolve()) for place in places)
    return installed or root.stat().st_mode & 0o222 == 0


def _load(place: Path, key: str) -> dict[str, str] | None:
    """Return a file's entries: none if it is absent or of another version; None if damaged."""
    try:
        kept = read_json(place, key=key)
    except DamagedError:
        return None
    except OSError:
        return {}
    return kept["files"] if kept.get("version") == _VERSION else {}
