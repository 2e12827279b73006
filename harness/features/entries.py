"""One entry of the cache: what its checksum is taken for, and the bytes of an array."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.atomic import DamagedError


def entry_key(path: Path) -> str:
    """Return what an entry's checksum is taken for: its recipe, by the folder, and its name."""
    return f"{path.parent.parent.name}/{path.name}"


def array_to_bytes(array: NDArray[np.float32]) -> bytes:
    """Return the number of axes, the shape and the values, little endian."""
    shape = np.array([array.ndim, *array.shape], dtype="<i8")
    return shape.tobytes() + np.ascontiguousarray(array, dtype="<f4").tobytes()


def array_from_bytes(content: bytes | memoryview, *, ndim: int) -> NDArray[np.float32]:
    """Return the array that `array_to_bytes` wrote; it cannot be written to.

    Parameters
    ----------
    content : bytes-like
        As `array_to_bytes` returned them.
    ndim : int
        How many axes the array must have.

    Raises
    ------
    DamagedError
        If it has another number of axes, or not as many values as its shape says.
    """
    header = 8 * (1 + ndim)
    if len(content) < header or (len(content) - header) % 4:
        raise DamagedError(f"it is no array with {ndim} axes")
    found, *shape = np.frombuffer(content, "<i8", 1 + ndim).tolist()
    values = np.frombuffer(content, "<f4", offset=header)
    if found != ndim or min(shape) < 0 or math.prod(shape) != values.size:
        raise DamagedError(f"it is no array with {ndim} axes")
    return values.reshape(shape)
