"""Features on disk, by content: one small file per image and kind, checked whenever it is read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.features.entries import (
    array_from_bytes,
    array_to_bytes,
    check_own,
    claim,
    entry_key,
    link_to,
    tell_unwritable,
)
from harness.features.spec import Graph, Recipe
from harness.system.files import (
    DamagedError,
    add_checksum,
    read_json,
    read_regular,
    strip_checksum,
    write_atomically,
    write_json,
)
from harness.system.locks import warn_once

POOLED = "pooled"
MAPS = "maps"

_NDIM = {POOLED: 1, MAPS: 3}

_Content = TypeVar("_Content")


class Store:
    """Entries of the cache that belong together, in a folder that says what they are.

    What cannot be kept there, for instance in a cache that may only be read, is kept in a temporary
    folder for as long as the store lives, with one warning in a process. A full disk is an error.

    Parameters
    ----------
    cache : Path
        The cache's folder; made when the first entry is written.
    described : Recipe or Graph
        What determines the entries besides their names.
    """

    def __init__(self, cache: Path, described: Recipe | Graph) -> None:
        self.folder = cache / described.key
        self._cache = cache
        self._description = json.loads(json.dumps(asdict(described)))
        self._bad: set[str] = set()
        """Entries that could not be read, until they are written again."""
        self._apart: Path | None = None
        self._making = Lock()

    def read_bytes(self, name: str) -> memoryview | None:
        """Return the content of an entry, or None where there is none.

        Warns
        -----
        UserWarning
            If the entry is damaged or cannot be read; None is returned.
        """
        return self._read(name, lambda content: content)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Store an entry; a reader sees all of it or nothing."""
        path, data = self._path(name), add_checksum(content, key=entry_key(self._path(name)))
        try:
            check_own(path, cache=self._cache)
            self._describe()
            write_atomically(path, data)
        except OSError as error:
            tell_unwritable(error, cache=self._cache)
            write_atomically(self._made_apart() / name, data)
        else:
            self._bad.discard(name)

    @contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the right to make what belongs to a name; see `harness.features.entries.claim`.

        Where the cache cannot be written to, everyone gets it.
        """
        with ExitStack() as held:
            path = self._path(f"{name}.lock")
            try:
                check_own(path, cache=self._cache)
                mine = held.enter_context(claim(path, wait=wait))
            except OSError as error:
                tell_unwritable(error, cache=self._cache)
                mine = True
            yield mine

    def _read(self, name: str, decode: Callable[[memoryview], _Content]) -> _Content | None:
        path = self._place(name)
        if path is None:
            return None
        try:
            content = decode(strip_checksum(read_regular(path), key=entry_key(self._path(name))))
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:
            self._give_up(name, error)
            return None
        if path.parent != self._apart:
            self._use(path)
        return content

    def _give_up(self, name: str, error: DamagedError | OSError) -> None:
        """Look at an entry no more until it is written again; one warning for all unreadable."""
        about = name if isinstance(error, DamagedError) else "what cannot be read"
        reason = getattr(error, "strerror", None) or error
        message = f"{self._path(name)} is made again: {reason}"
        warn_once(message, about=f"{self.folder}: {about}")
        self._bad.add(name)

    def _use(self, path: Path) -> None:
        """Note that an entry is used, for the order of eviction."""
        with suppress(OSError):  # a cache of someone else's, or one that cannot be written to
            if link_to(path, cache=self._cache) is None:
                os.utime(path, follow_symlinks=False)

    def _describe(self) -> None:
        """Write the description where it is missing or damaged."""
        path, key = self.folder / "recipe.json", self.folder.name
        with suppress(OSError, DamagedError):
            if read_json(path, key=key) == self._description:
                return
        write_json(path, self._description, key=key)

    def _path(self, name: str) -> Path:
        return self.folder.joinpath(name[:2], name)

    def _place(self, name: str) -> Path | None:
        """Return where an entry is read from: the temporary folder goes before the cache."""
        if self._apart is not None and os.path.isfile(self._apart / name):
            return self._apart / name
        return None if name in self._bad else self._path(name)

    def _made_apart(self) -> Path:
        with self._making:
            if self._apart is None:
                self._apart = Path(tempfile.mkdtemp(prefix="features-"))
                weakref.finalize(self, shutil.rmtree, self._apart, ignore_errors=True)
            return self._apart


class FeatureStore(Store):
    """The features of one recipe in a cache folder.

    Parameters
    ----------
    cache : Path
        The cache, shared by all recipes; made when the first feature is written.
    recipe : Recipe
        What determines the features besides the image.
    """

    def __init__(self, cache: Path, recipe: Recipe) -> None:
        super().__init__(cache, recipe)
        self.recipe = recipe

    def has(self, digest: str, kind: str) -> bool:
        """Tell whether there is a feature, without checking its content."""
        place = self._place(f"{digest}.{kind}")
        return place is not None and os.path.isfile(place)

    def read(self, digest: str, kind: str) -> NDArray[np.float32] | None:
        """Read a feature of an image.

        Returns
        -------
        ndarray of shape (D,) for `POOLED`, (D, h, w) for `MAPS`, or None
            None where there is none or it cannot be read; warnings as `read_bytes`.
        """
        return self._read(f"{digest}.{kind}", partial(array_from_bytes, ndim=_NDIM[kind]))

    def write(self, digest: str, kind: str, array: NDArray[np.float32]) -> None:
        """Store a feature of an image: an array of a shape that `read` returns."""
        self.write_bytes(f"{digest}.{kind}", array_to_bytes(array))
