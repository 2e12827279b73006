"""The bytes of one entry of the cache: a checksum, then the content."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_LENGTH = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """An entry of the cache whose checksum does not fit its content."""


def seal(content: bytes) -> bytes:
    """Put the checksum before the content."""
    return hashlib.sha256(content).digest() + content


def unseal(data: bytes) -> memoryview:
    """Return the content of a sealed entry.

    Raises
    ------
    DamagedError
        If a byte differs or is missing.
    """
    content = memoryview(data)[_LENGTH:]
    if hashlib.sha256(content).digest() != data[:_LENGTH]:
        raise DamagedError("its checksum does not fit its content")
    return content


def array_to_bytes(array: NDArray[np.float32]) -> bytes:
    """Return the number of axes, the shape and the values, little endian."""
    shape = np.array([array.ndim, *array.shape], dtype="<i8")
    return shape.tobytes() + np.ascontiguousarray(array, dtype="<f4").tobytes()


def array_from_bytes(content: bytes | memoryview) -> NDArray[np.float32]:
    """Return the array that `array_to_bytes` wrote; it cannot be written to."""
    ndim = int(np.frombuffer(content, "<i8", 1)[0])
    shape = np.frombuffer(content, "<i8", ndim, offset=8)
    return np.frombuffer(content, "<f4", offset=8 * (1 + ndim)).reshape(shape)
