"""The cache's folder, which others write to as well: what may be written there, and by whom.

The folder itself may be a link. Inside of it no link is followed to write, to lock or to remove
something: what lies behind one is not the cache's own, and is left alone.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.locks import hold, warn_once

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
