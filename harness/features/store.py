"""Features on disk, by content: one small file per image and kind, checked whenever it is read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.features.recipe import Recipe

POOLED = "pooled"
MAPS = "maps"
_SUM = hashlib.sha256


class DamagedError(ValueError):
    """A file of the cache whose checksum does not fit its content."""


def pack(array: NDArray[np.float32]) -> bytes:
    """Return checksum, number of axes, shape and values as bytes."""
    shape = np.array([array.ndim, *array.shape], dtype="<i8").tobytes()
    body = shape + np.ascontiguousarray(array, dtype="<f4").tobytes()
    return _SUM(body).digest() + body


def unpack(data: bytes) -> NDArray[np.float32]:
    """Return the array that `pack` wrote.

    Raises
    ------
    DamagedError
        If a byte differs or is missing.
    """
    checksum, body = data[:32], memoryview(data)[32:]
    if len(body) < 8 or _SUM(body).digest() != checksum:
        raise DamagedError("checksum does not fit the content")
    ndim = int(np.frombuffer(body, "<i8", 1)[0])
    shape = np.frombuffer(body, "<i8", ndim, 8)
    return np.frombuffer(body, "<f4", offset=8 * (1 + ndim)).reshape(shape)


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

    def path(self, digest: str, kind: str) -> Path:
        """Return the file for an image's digest and a kind of feature."""
        return self.folder / digest[:2] / f"{digest}.{kind}"

    def has(self, digest: str, kind: str) -> bool:
        """Tell whether there is an entry, without checking its content."""
        return self.path(digest, kind).exists()

    def read(self, digest: str, kind: str) -> NDArray[np.float32] | None:
        """Return the feature, or None where there is none or (with a warning) it is damaged."""
        path = self.path(digest, kind)
        try:
            array = unpack(path.read_bytes())
            os.utime(path)  # the order of eviction
        except FileNotFoundError:
            return None
        except DamagedError as error:
            warnings.warn(f"{path}: {error}; extracted again", stacklevel=2)
            path.unlink(missing_ok=True)
            return None
        return array

    def write(self, digest: str, kind: str, array: NDArray[np.float32]) -> None:
        """Store a feature; a reader sees all of it or nothing."""
        path = self.path(digest, kind)
        if not path.parent.exists():
            self._describe()
            path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, pack(array))

    def _describe(self) -> None:
        """Say beside the entries, for people and `python -m harness.cache`, what they are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self.recipe), indent=2)
        _write_atomically(self.folder / "recipe.json", text.encode())


def _write_atomically(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
