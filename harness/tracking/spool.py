"""Ended runs on the local disk until the tracking store has them."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from harness.tracking.entry import Entry, read_entry, write_entry

log = logging.getLogger(__name__)


class Spool:
    """A queue of entries, one folder each; several processes may use it at once.

    Parameters
    ----------
    folder : Path
        Where entries lie. Where it cannot be written, its disk being full, other disks follow:
        the system's temporary folder, then shared memory.
    """

    def __init__(self, folder: Path) -> None:
        name = f"dfkde-spool-{sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
        self.folders = [folder, Path(tempfile.gettempdir(), name), Path("/dev/shm", name)]  # noqa: S108

    def add(self, entry: Entry, draw: Callable[[Path], None]) -> Path:
        """Write an entry with its artifacts; it is there wholly or not at all.

        Parameters
        ----------
        entry : Entry
            The run.
        draw : callable
            Writes the artifacts into the folder it is given.

        Raises
        ------
        OSError
            If no folder can be written.
        """
        *others, last = self.folders
        for folder in others:
            try:
                return _add(folder, entry, draw)
            except OSError as error:
                log.warning("%s cannot hold the results of %s: %s", folder, entry.name, error)
        return _add(last, entry, draw)

    def __iter__(self) -> Iterator[Path]:
        """Yield the folder of each entry, the oldest first."""
        for folder in self.folders:
            # Somebody else may have made a folder of that name where everybody may write.
            if folder.is_dir() and folder.stat().st_uid == os.getuid():
                whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
                yield from sorted(whole, key=lambda path: path.name)

    def find(self, identity: str) -> Entry | None:
        """Return the newest entry of a finished job of that identity, or None."""
        found = None
        for path in self:
            try:
                entry = read_entry(path)
            except FileNotFoundError:  # pushed meanwhile
                continue
            if entry.status == "FINISHED" and entry.job_tags.get("identity") == identity:
                found = entry
        return found


def artifacts(path: Path) -> Path:
    """Return where an entry's artifacts lie."""
    return path / "artifacts"


def remove(path: Path) -> None:
    """Take an entry out."""
    # Renamed first, so that no one sees half of it.
    gone = path.with_name(f".{path.name}")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _add(folder: Path, entry: Entry, draw: Callable[[Path], None]) -> Path:
    # Names sort by time; the unique end keeps two processes apart.
    path = folder / f"{entry.ended}-{uuid.uuid4().hex}"
    part = path.with_name(f".{path.name}")
    try:
        artifacts(part).mkdir(parents=True)
        write_entry(part, entry)
        draw(artifacts(part))
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return path
