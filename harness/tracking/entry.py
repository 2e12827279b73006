"""All that is to be said of a run that has ended, as a folder that can be pushed at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from harness.atomic import json_bytes, read_json, read_regular

_FILE = "run.json"


@dataclass(frozen=True)
class Entry:
    """An ended run as MLflow will hold it, except for its artifacts.

    Attributes
    ----------
    experiment, name : str
        MLflow's names of experiment and run.
    run_id : str, optional
        The run opened when the job started; None if the store could not be reached then.
    status : str
        `FINISHED`, `FAILED` or `KILLED`.
    started, ended : int
        Milliseconds since 1970.
    job_tags : dict of str to str
        What was known when the job started; set when the run is opened.
    tags, params : dict of str to str
        What is known at its end.
    metrics : dict of str to float
        By MLflow's name.
    source : dict of str to str
        The data the job read, as MLflow describes a dataset; empty where it read none.
    unchecked : bool
        Whether the store could not tell if the job had a finished run already.
    """

    experiment: str
    name: str
    run_id: str | None
    status: str
    started: int
    ended: int
    job_tags: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    unchecked: bool = False


def write_entry(folder: Path, entry: Entry) -> None:
    """Write the entry into its folder, in one step that a loss of power does not undo."""
    part = folder / f".{_FILE}"
    with part.open("wb") as file:
        # JSON keeps every bit of a float64: Python writes the shortest text that reads back to it.
        file.write(json_bytes(asdict(entry), key=_key(folder)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / _FILE)


def read_entry(folder: Path) -> Entry:
    """Return the entry of a folder.

    Raises
    ------
    OSError, ValueError, TypeError
        If it cannot be read, is damaged, or is none.
    """
    path = folder / _FILE
    kept = json.loads(read_regular(path))
    if "checksum" not in kept:  # written before there were checksums
        return Entry(**kept)
    return Entry(**read_json(path, key=_key(folder)))


def _key(folder: Path) -> str:
    # An entry is written, and removed, under a name that begins with a dot.
    return f"entry {folder.name.lstrip('.')}"


def entry_name(folder: Path) -> str:
    """Return the run's name; of an entry that cannot be read, its folder."""
    try:
        return read_entry(folder).name
    except (OSError, ValueError, TypeError):
        return str(folder)


def name_run(folder: Path, entry: Entry, *, run_id: str) -> None:
    """Note which run the entry has become, so that pushing it again makes no second one."""
    write_entry(folder, replace(entry, run_id=run_id))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file lock, which the system releases if the process dies.

    Yields
    ------
    bool
        Whether the lock is held; always True where `wait` is.
    """
    # No link is followed, and no pipe waited for.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags, 0o666), "rb", buffering=0) as file:
        try:
            flock(file, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
