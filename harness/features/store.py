"""Features on disk, by content: one small file per image and kind, checked whenever it is read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.atomic import write_atomically
from harness.features.claims import claim
from harness.features.entries import (
    DamagedError,
    array_from_bytes,
    array_to_bytes,
    seal,
    unseal,
)
from harness.features.recipe import Graph, Recipe

POOLED = "pooled"
MAPS = "maps"


class Store:
    """Entries of the cache that belong together, in a folder that says what they are.

    Parameters
    ----------
    cache : Path
        The cache's folder; made when the first entry is written.
    described : Recipe or Graph
        What determines the entries besides their names.
    """

    def __init__(self, cache: Path, described: Recipe | Graph) -> None:
        self.folder = cache / described.key
        self._description = json.dumps(asdict(described), indent=2).encode()

    def read_bytes(self, name: str) -> memoryview | None:
        """Return the content of an entry, or None where there is none.

        Warns
        -----
        UserWarning
            If the entry is damaged; it is removed, and None is returned.

        Raises
        ------
        PermissionError
            In one line, if this user may not read the cache; so do the methods that write.
        """
        path = self._path(name)
        try:
            with self._permitted():
                content = unseal(path.read_bytes())
        except FileNotFoundError:
            return None
        except DamagedError as error:
            warnings.warn(f"{path} is made again: {error}", stacklevel=2)
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a cache of someone else's, or one that cannot be written to
            os.utime(path)  # for the order of eviction
        return content

    def write_bytes(self, name: str, content: bytes) -> None:
        """Store an entry; a reader sees all of it or nothing."""
        with self._permitted():
            self._describe()
            write_atomically(self._path(name), seal(content))

    @contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the right to make what belongs to a name; see `harness.features.claims.claim`."""
        with self._permitted(), claim(self._path(f"{name}.lock"), wait=wait) as mine:
            yield mine

    def _describe(self) -> None:
        """Write the description where it is missing or damaged."""
        path = self.folder / "recipe.json"
        if not path.exists() or path.read_bytes() != self._description:
            write_atomically(path, self._description)

    @contextmanager
    def _permitted(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            if not str(error.filename).startswith(str(self.folder.parent)):  # not of the cache
                raise
            raise PermissionError(
                "features.cache must be a folder that this user may read and write, got"
                f" {str(self.folder.parent)!r}: {error.strerror}: {error.filename!r}"
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder.joinpath(name[:2], name)


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
        return self._path(f"{digest}.{kind}").exists()

    def read(self, digest: str, kind: str) -> NDArray[np.float32] | None:
        """Read a feature of an image.

        Returns
        -------
        ndarray of shape (D,) for `POOLED`, (D, h, w) for `MAPS`, or None
            None where there is none or it is damaged; errors and warnings as `read_bytes`.
        """
        content = self.read_bytes(f"{digest}.{kind}")
        return None if content is None else array_from_bytes(content)

    def write(self, digest: str, kind: str, array: NDArray[np.float32]) -> None:
        """Store a feature of an image: an array of a shape that `read` returns."""
        self.write_bytes(f"{digest}.{kind}", array_to_bytes(array))
