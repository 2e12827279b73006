"""One entry of the cache: what its checksum is taken for, and the bytes of an array."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.system.files import DamagedError
from harness.system.locks import hold, warn_once

_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
}
"""How it says that one may not write there, or that something else is in the place of a file or
folder of ours. A full disk is another matter: it ends the job."""


@contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the right to do some work, against other processes and other threads.

    The claim ends with the block or with the process, however that ends. The file is removed while
    the claim is held; one who waited for it finds the work done. If the work failed, two may come
    to do it at once, which is harmless where results are written atomically. Where the filesystem
    has no locks, everyone gets the claim, with a warning.

    Parameters
    ----------
    path : Path
        The file that stands for the work.
    wait : bool
        Wait for the claim, or else yield False at once if another holds it.

    Raises
    ------
    OSError
        If the file cannot be opened or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # nobody claims through a link
        path.unlink(missing_ok=True)
    with hold(path, patience=math.inf if wait else 0) as mine:
        try:
            yield mine
        finally:
            if mine:
                with suppress(OSError):
                    path.unlink()


def check_own(path: Path, *, cache: Path) -> None:
    """Refuse a file of the cache that lies behind a link inside of the cache.

    Raises
    ------
    OSError
        `ELOOP`, with the folder that is a link.
    """
    link = link_to(path, cache=cache)
    if link is not None:
        raise OSError(errno.ELOOP, "A link, which the cache does not follow", str(link))


def link_to(path: Path, *, cache: Path) -> Path | None:
    """Return the first folder on the way from the cache to a file in it that is a link."""
    parts = path.relative_to(cache).parts[:-1]
    folders = (cache.joinpath(*parts[: k + 1]) for k in range(len(parts)))
    return next((folder for folder in folders if folder.is_symlink()), None)


def tell_unwritable(error: OSError, *, cache: Path) -> None:
    """Warn, once in a process, that something cannot be kept in the cache.

    Raises
    ------
    OSError
        The error itself, if it says something else, such as a full disk.
    """
    if error.errno not in _UNWRITABLE:
        raise error
    warn_once(
        f"features.cache={str(cache)!r} does not let us keep everything ({error.strerror}:"
        f" {error.filename!r}): what it lacks is computed, and kept for this process only",
        about=str(cache),
    )


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
