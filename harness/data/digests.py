"""Inspections, remembered between runs: a file is read again only when it changed.

The memory of a category is a JSON file beside the data, `<root>/.dfkde/<category>.json`, or in the
user's cache folder where the data may not be written to. A file counts as unchanged while its size
and its times of modification and of status change (in ns) are the same. The last of these tells
two files apart that were swapped by renaming, which archives of whole-second times would hide.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sysconfig
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from harness.data.inspection import Inspection
from harness.data.listing import DataError, Problem, shown
from harness.system.files import DamagedError, read_json, read_regular, write_json

log = logging.getLogger(__name__)

_VERSION = 4
"""Raised by whatever changes which files count as sound, or what is seen of them."""

Memory = dict[str, str]
"""By kind and name: a file's `stamp`, then the fields of its inspection, with spaces between."""


class InspectionCache:
    """The inspections of one category.

    Parameters
    ----------
    root : Path
        The dataset's root.
    category : str
        The category.
    """

    def __init__(self, root: Path, category: str) -> None:
        self._key = f"inspections of {category}"
        self._places = _places(root, category)
        loaded = [_load(place, self._key) for place in self._places]
        self._memories = [memory for memory in loaded if memory]
        for place, memory in zip(self._places, loaded, strict=True):
            if memory is None and not self._memories:
                log.warning("%s is damaged; the files are read again", shown(str(place)))

    def find(self, key: str, stamp: str) -> Inspection | None:
        """Return what is remembered of a file, or None if it is new or changed."""
        for memory in self._memories:
            entry = memory.get(key, "")
            if entry.startswith(f"{stamp} "):
                digest, *numbers = entry.removeprefix(stamp).split()
                width, height, defect_pixels, synthetic = map(int, numbers)
                return Inspection(digest, width, height, defect_pixels, bool(synthetic))
        return None

    def save(self, found: Mapping[str, tuple[str, Inspection]]) -> None:
        """Remember inspections in the first place that can be written; else do without."""
        memory = {
            key: " ".join(map(str, (stamp, seen.digest, *map(int, seen[1:]))))
            for key, (stamp, seen) in found.items()
        }
        for place in self._places:
            with contextlib.suppress(OSError):
                write_json(place, {"version": _VERSION, "files": memory}, key=self._key)
                return


def user_cache() -> Path | None:
    """Return the user's cache folder for digests, or None for a user without a home directory."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "dfkde" / "digests"


def _places(root: Path, category: str) -> list[Path]:
    root = root.resolve()
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    cache = user_cache()
    own = [] if cache is None else [cache / key / f"{category}.json"]
    beside = root / ".dfkde"
    # A link could lead to a folder of somebody's that has a file of that name.
    if beside.is_symlink() or _not_ours_to_write(root):
        return own
    return [beside / f"{category}.json", *own]


def _not_ours_to_write(root: Path) -> bool:
    """Tell an installed package and a folder marked read-only (which root could write to)."""
    places = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    installed = any(root.is_relative_to(Path(place).resolve()) for place in places)
    return installed or root.stat().st_mode & 0o222 == 0


def _load(place: Path, key: str) -> Memory | None:
    """Return what a file remembers: nothing if it is absent or of another version; None: damage."""
    try:
        kept = read_json(place, key=key)
    except DamagedError:
        return {} if _has_no_checksum(place) else None
    except OSError:
        return {}
    return kept["files"] if kept.get("version") == _VERSION else {}


def _has_no_checksum(place: Path) -> bool:
    """Tell a file of before there were checksums: nothing has happened to it."""
    try:
        return read_regular(place).startswith(b'{\n"version": ')
    except (OSError, DamagedError):
        return False


def write_manifest(root: Path, digests: Mapping[str, str]) -> None:
    """Keep the digests of the files of a dataset, by name relative to its root."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for name, digest in digests.items():
        folder, below, _ = name.partition("/")
        if below:
            folders[folder][name] = digest
    for folder, files in folders.items():
        write_json(_place(root, folder), files, key=_key(folder))


def changed_files(root: Path, category: str, *, seen: Mapping[str, Inspection]) -> list[Problem]:
    """Name the files that are not as they came out of the archive; these are not fatal.

    Raises
    ------
    DataError
        If the list of what came out is itself broken.
    """
    place = _place(root, category)
    try:
        digests = read_json(place, key=_key(category))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except DamagedError as error:
        rule = "remove that file to go on without the comparison with the archive"
        rule += ", or remove the dataset and fetch it anew"
        raise DataError(f"'{shown(str(place))}' is damaged or has no checksum; {rule}") from error
    except OSError as error:
        raise DataError(f"'{shown(str(place))}' cannot be read ({error.strerror})") from error
    return [
        Problem(name, "is not as it came out of the published archive", fatal=False)
        for name, inspection in seen.items()
        if name.startswith(f"{category}/") and digests.get(name) != inspection.digest
    ]


def _key(folder: str) -> str:
    return f"files of the archive in {folder}"


def _place(root: Path, folder: str) -> Path:
    return root / ".dfkde" / "archive" / f"{folder}.json"
