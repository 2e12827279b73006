"""Locks on files: the system frees a lock when the process that holds it ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import platform
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from harness.system.files import read_regular, write_atomically
from harness.system.terminal import shown

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""How a filesystem says that it has no locks."""

_POLL = 0.05
# Seconds for which a job asks for its lock: another process may just be looking at it.
_PATIENCE = 1.0
# The same for a job that Slurm has started again: a file server may take a minute and a half to
# learn that the node that held the lock is dead.
_PATIENCE_REQUEUED = 120.0

_ID = re.compile(r"[0-9a-f]{32}")
# How a mount's place is written that holds a space or a backslash.
_OCTAL = re.compile(r"\\([0-7]{3})")
# Locks of these are known to one machine only.
_LOCAL_OPTIONS = frozenset({"nolock", "localflock", "local_lock=flock", "local_lock=all", "nobrl"})
_LOCAL_TYPES = frozenset({"beegfs", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse"})

_warned: set[str] = set()
_descriptors: set[int] = set()


@contextmanager
def hold(path: Path, *, patience: float = math.inf) -> Iterator[bool]:
    """Hold a lock on a file against other processes and other threads; yield whether it is held.

    `patience` is how many seconds to wait while another holds it. The file is created if need be,
    and stays; no link is followed and no pipe waited for. The lock ends with the block or with the
    process. Where the filesystem has no locks everyone gets the lock, with a warning.
    """
    descriptor = _open(path)
    _descriptors.add(descriptor)
    try:
        yield _lock(descriptor, path, patience)
    finally:
        if descriptor in _descriptors:  # else in a forked process
            _descriptors.remove(descriptor)
            os.close(descriptor)


def warn_once(message: str, *, about: str) -> None:
    """Warn, unless this process has warned of the same before."""
    if about not in _warned:
        _warned.add(about)
        warnings.warn(shown(message), stacklevel=2)


class JobLocks:
    """The locks of running jobs, a file for each identity, which is never removed.

    A process that dies frees its lock, so that a run that is open in the store while its lock is
    free belongs to a dead process, as far as that uses the same folder. Without a folder there are
    no locks.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @cached_property
    def id(self) -> str:
        """Identifies this folder among all others; empty where its locks mean nothing.

        A random number, made once, and the inode of the file that holds it: a copy of the folder
        has another.
        """
        if self._folder is None:
            return ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return _folder_id(self._folder)
        except OSError as error:
            return self._no_id(error)

    @contextmanager
    def hold(self, name: str) -> Iterator[str | None]:
        """Hold the lock of a job by its identity; yield which other process has it, or None.

        None also if it cannot be held, as in a folder of another user: then the folder's `id` is
        empty, and nobody takes the runs of this process for those of a dead one.
        """
        if self._folder is None or not self.id:
            yield None
            return
        path = self._folder / name
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        patience = _PATIENCE_REQUEUED if requeued else _PATIENCE
        held = None
        with ExitStack() as stack:
            try:
                held = stack.enter_context(hold(path, patience=patience))
            except OSError as error:
                self.id = self._no_id(error)
            if held:
                with suppress(OSError):  # on a full disk the lock holds all the same
                    path.write_text(f"process {os.getpid()} of {platform.node()}")
            yield _holder(path) if held is False else None

    def is_held(self, name: str) -> bool | None:
        """Return whether a process holds a job's lock; None where that is unknown."""
        if self._folder is None or not self.id or not (self._folder / name).is_file():
            return None
        with suppress(OSError), hold(self._folder / name, patience=0) as held:
            return not held
        return None

    def _no_id(self, error: OSError) -> str:
        rule = "a job that runs in another process is not detected"
        warn_once(f"{self._folder} cannot hold locks ({error.strerror}): {rule}", about="locks")
        return ""


def _leave_to_parent() -> None:
    """Close what a forked process inherits: it may live longer, and would keep the locks."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


def _open(path: Path) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, flags | os.O_RDONLY)  # another user's


def _lock(descriptor: int, path: Path, patience: float) -> bool:
    end = time.monotonic() + patience
    mode = fcntl.LOCK_EX | (0 if patience == math.inf else fcntl.LOCK_NB)
    while True:
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            rule = "processes that do the same work at once each do all of it"
            warn_once(f"{path.parent} has no locks ({error.strerror}): {rule}", about="locks")
            return True
        else:
            return True


def _holder(path: Path) -> str:
    try:
        return shown(read_regular(path).decode(errors="replace")[:100])
    except (OSError, ValueError):
        return "another process"


def _folder_id(folder: Path) -> str:
    """Return the folder's id; empty where its locks keep nobody out, on other machines as well."""
    path, lock = folder / "id", folder / "id.lock"
    with hold(lock), hold(lock, patience=0) as again:
        if again or _known_to_one_machine(folder):
            return ""
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex.encode())
        text = read_regular(path).decode(errors="replace")
        return f"{text}-{path.stat().st_ino}" if _ID.fullmatch(text) else ""


def _known_to_one_machine(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Return whether the folder's mount is of a kind that shares files, but no locks."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    inside = folder.resolve()
    kinds = [line.split()[1:4] for line in lines]
    # The last mount of the deepest place is the one in force.
    found = [(len(place), kind, options) for place, kind, options in kinds if _below(inside, place)]
    _, kind, options = max(reversed(found), key=lambda one: one[0], default=(0, "", ""))
    return kind in _LOCAL_TYPES or not _LOCAL_OPTIONS.isdisjoint(options.split(","))


def _below(path: Path, place: str) -> bool:
    return path.is_relative_to(_OCTAL.sub(lambda code: chr(int(code[1], 8)), place))
