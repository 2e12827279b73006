"""Work that several processes come upon at the same time."""

from __future__ import annotations

import errno
import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""How a filesystem says that it has no locks."""


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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if not _lock(file, wait=wait):
            yield False
            return
        try:
            yield True
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn(
            f"the feature cache cannot be locked ({error.strerror}): processes that extract the"
            " same images at once each do all the work"
        )
    return True


@cache
def _warn(message: str) -> None:
    """Warn once in a process."""
    warnings.warn(message, stacklevel=2)
