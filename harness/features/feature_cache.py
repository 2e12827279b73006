"""Features on disk, by content: one small file per image and kind, checked whenever it is read.

Below the section's own reading and writing: what is in a cache, and its eviction.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from harness.system.files import (
    DamagedError,
    add_checksum,
    read_json,
    read_regular,
    strip_checksum,
    write_atomically,
    write_json,
)
from harness.system.locks import hold, warn_once
from harness.system.terminal import shown

if TYPE_CHECKING:
    from harness.features.spec import ExtractionSpec

POOLED = "pooled"
MAPS = "maps"
DESCRIPTION = "recipe.json"
"""The file of a section that says what its entries are; of the name that older caches have."""

_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
}
"""How it says that one may not write there, or that something else is in the place of a file or
folder of ours. A full disk is another matter: it ends the job."""

_ABANDONED = 3600.0
"""Seconds after which a half-written file belongs to no living process."""

_KEY = re.compile(r"[0-9a-f]{32}")
"""How the folder of a section is called: of other folders in the cache's place nothing is ours."""


def maps_of(layer: str) -> str:
    """Return the kind of entry that holds the maps of one layer: `blocks.2.maps`."""
    return f"{quote(layer, safe='')}.{MAPS}"


class Store:
    """A section of the cache: entries in a folder whose description says what determines them.

    What cannot be kept there, for instance in a cache that may only be read, is kept in a temporary
    folder for as long as the store lives, with one warning in a process. A full disk is an error.
    """

    def __init__(self, cache: Path, spec: ExtractionSpec) -> None:
        self.folder = cache / spec.key
        self._cache = cache
        self._description = json.loads(json.dumps(asdict(spec)))
        # Made with the first entry that is kept there.
        self._apart = Path(tempfile.gettempdir(), f"features-{uuid.uuid4().hex}")
        weakref.finalize(self, shutil.rmtree, self._apart, ignore_errors=True)

    def has(self, digest: str, kind: str) -> bool:
        """Tell whether there is a feature, without checking its content."""
        return os.path.isfile(self._place(f"{digest}.{kind}"))

    def read(self, digest: str, kind: str) -> NDArray[np.float32] | None:
        """Read an image's feature, (D,) if `POOLED`, else a map (D, h, w); as `read_bytes`."""
        content = self.read_bytes(f"{digest}.{kind}")
        return None if content is None else array_from_bytes(content)

    def write(self, digest: str, kind: str, array: NDArray[np.float32]) -> None:
        """Write an image's feature, of a shape that `read` returns."""
        self.write_bytes(f"{digest}.{kind}", array_to_bytes(array))

    def read_bytes(self, name: str) -> memoryview | None:
        """Return the content of an entry; None where there is none, with a warning if damaged."""
        path = self._place(name)
        try:
            content = strip_checksum(read_regular(path), key=entry_key(self._path(name)))
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:
            about = name if isinstance(error, DamagedError) else "what cannot be read"
            reason = getattr(error, "strerror", None) or error
            warn_once(f"{path} is made again: {reason}", about=f"{self.folder}: {about}")
            return None
        with suppress(OSError):  # a cache of someone else's, or one that cannot be written to
            refuse_link(self._path(name), cache=self._cache)
            os.utime(path, follow_symlinks=False)  # for the order of eviction
        return content

    def write_bytes(self, name: str, content: bytes) -> None:
        """Store an entry; a reader sees all of it or nothing."""
        path = self._path(name)
        data = add_checksum(content, key=entry_key(path))
        try:
            refuse_link(path, cache=self._cache)
            self._describe()
            write_atomically(path, data)
        except OSError as error:
            warn_unwritable(error, cache=self._cache)
            write_atomically(self._apart / name, data)

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Lock what belongs to a name; where the cache cannot be written to, everyone has it."""
        with ExitStack() as stack:
            path = self._path(f"{name}.lock")
            try:
                refuse_link(path, cache=self._cache)
                mine = stack.enter_context(lock(path, wait=wait))
            except OSError as error:
                warn_unwritable(error, cache=self._cache)
                mine = True
            yield mine

    def _describe(self) -> None:
        """Write the description where it is missing or damaged."""
        path, key = self.folder / DESCRIPTION, self.folder.name
        with suppress(OSError, DamagedError):
            if read_json(path, key=key) == self._description:
                return
        write_json(path, self._description, key=key)

    def _path(self, name: str) -> Path:
        return self.folder.joinpath(name[:2], name)

    def _place(self, name: str) -> Path:
        """Return where an entry is read from: the temporary folder goes before the cache."""
        apart = self._apart / name
        return apart if os.path.isfile(apart) else self._path(name)


@contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock some work against other processes and threads: wait, or else yield False at once.

    The lock ends with the block or with the process, however that ends. The file is removed while
    the lock is held; one who waited for it finds the work done. If the work failed, two may come
    to do it at once, which is harmless where results are written atomically. Where the filesystem
    has no locks, everyone gets the lock, with a warning.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # nobody locks through a link
        path.unlink(missing_ok=True)
    with hold(path, patience=math.inf if wait else 0) as mine:
        try:
            yield mine
        finally:
            if mine:
                with suppress(OSError):
                    path.unlink()


def refuse_link(path: Path, *, cache: Path) -> None:
    """Raise `OSError` (`ELOOP`) for a file that lies behind a link inside of the cache."""
    for folder in path.parents[: len(path.relative_to(cache).parts) - 1]:
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "A link, which the cache does not follow", str(folder))


def warn_unwritable(error: OSError, *, cache: Path) -> None:
    """Warn, once in a process, that the cache cannot be written to; raise any other error."""
    if error.errno not in _UNWRITABLE:
        raise error
    warn_once(
        f"features.cache={str(cache)!r} cannot keep everything ({error.strerror}:"
        f" {error.filename!r}): what it lacks is computed, and kept for this process only",
        about=str(cache),
    )


def entry_key(path: Path) -> str:
    """Return what an entry's checksum is taken for: its section's folder and its name."""
    return f"{path.parent.parent.name}/{path.name}"


def array_to_bytes(array: NDArray[np.float32]) -> bytes:
    """Return the number of axes, the shape and the values, little endian."""
    shape = np.array([array.ndim, *array.shape], dtype="<i8")
    return shape.tobytes() + np.ascontiguousarray(array, dtype="<f4").tobytes()


def array_from_bytes(content: bytes | memoryview) -> NDArray[np.float32]:
    """Return the array that `array_to_bytes` wrote; it cannot be written to."""
    [ndim] = np.frombuffer(content, "<i8", 1)
    shape = np.frombuffer(content, "<i8", ndim, offset=8)
    return np.frombuffer(content, "<f4", offset=8 * (1 + ndim)).reshape(shape)


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
    for path, size, _ in entries:
        if excess <= 0:
            break
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            folder = path.parent.parent
            warn_once(f"{path} cannot be removed: {error.strerror}", about=f"{folder}: removal")
            continue
        excess -= size
        n_removed += 1
    return n_removed


def _folders(cache: Path) -> Iterator[Path]:
    for description in sorted(cache.glob(f"*/{DESCRIPTION}")):
        folder = description.parent
        if _KEY.fullmatch(folder.name) and _is_own(description, cache=cache):
            yield folder


def _is_own(path: Path, *, cache: Path) -> bool:
    """Tell whether a file lies in the cache's own folders, and name a link that is none."""
    try:
        refuse_link(path, cache=cache)
    except OSError as error:
        link = error.filename
        warn_once(f"{link} is a link, which is left alone", about=f"{link} in the cache")
        return False
    return True


def _fields(description: Path) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = read_json(description, key=description.parent.name)
    except FileNotFoundError:  # another process's eviction
        return {}
    except (DamagedError, OSError) as error:
        reason = getattr(error, "strerror", None) or "it is not as this version writes it"
        warnings.warn(shown(f"{description} is damaged: {reason}"), stacklevel=2)
        return {}
    return fields


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
    for folder in [*_folders(cache), cache / "backbones"]:
        for pattern in ("*.part", "??/*.part", "??/*.lock"):
            for path in (one for one in folder.glob(pattern) if _is_own(one, cache=cache)):
                with suppress(OSError):
                    if path.suffix == ".lock":
                        with lock(path, wait=False):
                            pass  # the file goes with its lock
                    elif time.time() - path.lstat().st_mtime > _ABANDONED:
                        path.unlink()
