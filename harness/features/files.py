"""Files that other processes read and write at the same time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that others see complete or not at all, and make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):  # a full disk's error names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the right to do some work, against other processes and other threads.

    The claim ends with the block or with the process, however that ends. The file is removed while
    the claim is held; one who waited for it finds the work done. If the work failed, two may come
    to do it at once, which is harmless where results are written atomically.

    Parameters
    ----------
    path : Path
        The file that stands for the work.
    wait : bool
        Wait for the claim, or else yield False at once if another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
