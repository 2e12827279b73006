"""Ended runs on the local disk until the tracking store has them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from harness.atomic import read_regular
from harness.tracking.entry import Entry, read_entry, write_entry
from harness.tracking.names import IDENTITY
from harness.tracking.owner import HEARTBEAT, alive, this_process

log = logging.getLogger(__name__)

_OWNER = "owner.json"
# What an entry is called while it is written or removed.
_PART = re.compile(r"\.\d+-[A-Z]+-[0-9a-f]*-[0-9a-f]{32}")


class Spool:
    """A queue of entries, one folder each; several processes may use it at once.

    Parameters
    ----------
    folder : Path
        Where entries lie. Where it cannot be written, its disk being full, other disks follow:
        the system's temporary folder, then shared memory.
    """

    def __init__(self, folder: Path) -> None:
        digest = sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        name = f"dfkde-spool-{os.getuid()}-{digest}"
        self.folders = [folder, Path(tempfile.gettempdir(), name), Path("/dev/shm", name)]  # noqa: S108

    def add(self, entry: Entry, write: Callable[[Path], None]) -> Path:
        """Write an entry with its artifacts; it is there wholly or not at all.

        Parameters
        ----------
        entry : Entry
            The run.
        write : callable
            Writes the artifacts into the folder it is given.

        Returns
        -------
        Path
            The entry's folder.

        Raises
        ------
        OSError
            If no folder can be written.
        """
        *others, last = self.folders
        for folder in others:
            try:
                return self._add(folder, entry, write)
            except OSError as error:
                log.warning("%s cannot hold the results of %s: %s", folder, entry.name, error)
        return self._add(last, entry, write)

    def _add(self, folder: Path, entry: Entry, write: Callable[[Path], None]) -> Path:
        if folder != self.folders[0]:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            if not _is_ours_alone(folder):
                raise OSError(f"{folder} is not a folder that only this user may write to")
        return _add(folder, entry, write)

    def __iter__(self) -> Iterator[Path]:
        """Yield the folder of each entry, the oldest first."""
        for folder in self._own():
            whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
            yield from sorted(whole, key=lambda path: path.name)

    def find(self, identity: str) -> Iterator[Entry]:
        """Yield the entries of finished jobs of that identity, the newest first."""
        label = _label("FINISHED", identity)
        for path in reversed([path for path in self if label in path.name]):
            # Pushed meanwhile, or not to be read: then it tells of no finished job.
            with suppress(OSError, ValueError, TypeError):
                yield read_entry(path)

    def sweep_up(self) -> None:
        """Remove what processes that died left half-written."""
        for folder in self._own():
            for part in folder.glob(".*"):
                if _PART.fullmatch(part.name) and _abandoned(part):
                    shutil.rmtree(part, ignore_errors=True)

    def _own(self) -> Iterator[Path]:
        """Yield the folders that are there and ours."""
        first, *others = self.folders
        if first.is_dir() and first.stat().st_uid == os.getuid():
            yield first
        # Somebody else may have made a folder or a link of that name where everybody may write.
        yield from filter(_is_ours_alone, others)


def _is_ours_alone(folder: Path) -> bool:
    """Tell a folder, and no link to one, that belongs to this user and that no other may write."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    own = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return own and stat.S_ISDIR(status.st_mode)


def artifacts(path: Path) -> Path:
    """Return where an entry's artifacts lie."""
    return path / "artifacts"


def remove(path: Path) -> None:
    """Take an entry out."""
    # Renamed first, so that no one sees half of it.
    gone = path.with_name(f".{path.name}")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _add(folder: Path, entry: Entry, write: Callable[[Path], None]) -> Path:
    # Names sort by time; the unique end keeps two processes apart.
    label = _label(entry.status, entry.job_tags.get(IDENTITY, ""))
    path = folder / f"{entry.ended}{label}{uuid.uuid4().hex}"
    part = path.with_name(f".{path.name}")
    try:
        artifacts(part).mkdir(parents=True)
        (part / _OWNER).write_text(json.dumps(this_process()), encoding="utf-8")
        write_entry(part, entry)
        write(artifacts(part))
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return path


def _label(status: str, identity: str) -> str:
    """Return the part of an entry's name by which it is found without being read."""
    return f"-{status}-{identity}-"


def _abandoned(part: Path) -> bool:
    """Tell whether the process that writes or removes an entry has died."""
    try:
        tags = json.loads(read_regular(part / _OWNER))
    except ValueError:
        tags = {}
    except OSError:
        # Not written yet, or removed already: its age must tell.
        with suppress(OSError):
            return not alive({HEARTBEAT: str(part.stat().st_mtime)})
        return False
    return not alive(tags)
