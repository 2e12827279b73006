"""Features on disk, by content: one small file per image and kind, checked whenever it is read."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.features.entries import (
    DamagedError,
    array_from_bytes,
    array_to_bytes,
    seal,
    unseal,
)
from harness.features.files import claim, write_atomically
from harness.features.recipe import Recipe

POOLED = "pooled"
MAPS = "maps"


class FeatureStore:
    """The features of one recipe in a cache folder.

    Parameters
    ----------
    folder : Path
        The cache, shared by all recipes; made when the first feature is written.
    recipe : Recipe
        What determines the features besides the image.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder / recipe.key
        self.recipe = recipe

    def has(self, digest: str, kind: str) -> bool:
        """Tell whether there is a feature, without checking its content."""
        return self._path(f"{digest}.{kind}").exists()

    def read(self, digest: str, kind: str) -> NDArray[np.float32] | None:
        """Return the feature of an image, or None where there is none or it is damaged."""
        content = self.read_bytes(f"{digest}.{kind}")
        return None if content is None else array_from_bytes(content)

    def write(self, digest: str, kind: str, array: NDArray[np.float32]) -> None:
        """Store a feature of an image."""
        self.write_bytes(f"{digest}.{kind}", array_to_bytes(array))

    def read_bytes(self, name: str) -> memoryview | None:
        """Return the content of an entry, or None where there is none.

        Warns
        -----
        UserWarning
            If the entry is damaged; it is removed, and None is returned.
        """
        path = self._path(name)
        try:
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
        description = self.folder / "recipe.json"
        if not description.exists():
            write_atomically(description, json.dumps(asdict(self.recipe), indent=2).encode())
        write_atomically(self._path(name), seal(content))

    def claim(self, name: str, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold the right to make what belongs to a name; see `harness.features.files.claim`."""
        return claim(self._path(f"{name}.lock"), wait=wait)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name
