"""The outbox: ended runs on the local disk until the tracking store has them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.files import DamagedError, json_bytes, read_json, read_regular, write_atomically
from harness.system.locks import hold, warn_once
from harness.system.secrets import VARIABLE
from harness.system.terminal import shown
from harness.tracking import store
from harness.tracking.contents import ENTRY, ERROR_CLASS, ERROR_MESSAGE, IDENTITY

if TYPE_CHECKING:
    from mlflow.entities import RunInfo

log = logging.getLogger(__name__)

_FILE = "run.json"
_LOCK = ".lock"
_ADDRESS = ".address"
# The name of an entry's folder: its end, status and identity, and a unique number; and its name
# while it is written or removed.
_WHOLE = re.compile(r"\d+-[A-Z]+-[0-9a-f]*-[0-9a-f]{32}")
_PART = re.compile(r"\." + _WHOLE.pattern)
Files = dict[str, bytes]  # the content of artifacts by name
Write = Callable[[Path], None]  # writes artifacts into the folder it is given


@dataclass(frozen=True)
class Entry:
    """An ended run as MLflow will hold it, except for the content of its artifacts."""

    experiment: str
    name: str
    run_id: str | None  # the run that was opened when the job started, if one was
    status: str  # `FINISHED`, `FAILED` or `KILLED`
    started: int
    ended: int  # milliseconds since 1970, as `started`
    job_tags: dict[str, str]  # known when the job started, and set when the run is opened
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)  # the data, as MLflow describes a dataset
    artifacts: dict[str, str] = field(default_factory=dict)  # the SHA-256 of each, by its path


class Outbox:
    """A queue of entries for one store; several processes of one user may use it at once."""

    def __init__(self, uri: str) -> None:
        file, name = store.sqlite_file(uri), _name()
        self._server = None if file else uri
        # What waits for one store is never sent to another.
        digest = sha256(uri.encode()).hexdigest()[:16]
        self.folder = file.parent / name if file else Path("runs").resolve() / name / digest

    def open(self) -> None:
        """Make the folder if need be; raise `OSError` unless this user alone may enter it."""
        for folder in [self.folder] if self._server is None else [self.folder.parent, self.folder]:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check_own(folder)
        if self._server is not None and not (self.folder / _ADDRESS).exists():
            write_atomically(self.folder / _ADDRESS, self._server.encode())

    def add(self, entry: Entry, files: Files, *, attach: Write | None = None) -> Path:
        """Add an entry and its artifacts, whole or not at all; what `attach` writes may fail."""
        self.open()
        # Names sort by time; the unique end keeps two processes apart.
        label = f"{entry.status}-{entry.job_tags.get(IDENTITY, '')}"
        path = self.folder / f"{entry.ended}-{label}-{uuid.uuid4().hex}"
        part = path.with_name(f".{path.name}")
        try:
            with hold(self.folder / _LOCK):  # so that no `clean_up` takes it for a dead process's
                artifacts(part).mkdir(parents=True)
                for name, data in files.items():
                    (artifacts(part) / name).write_bytes(data)
                if attach is not None:
                    _attach(attach, artifacts(part))
                _write(part, replace(entry, artifacts=_digests(artifacts(part))))
                part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return path

    def __iter__(self) -> Iterator[Path]:
        """Yield the folder of each entry, the oldest first."""
        yield from sorted(path for path in self._all() if _WHOLE.fullmatch(path.name))

    def find(self, identity: str) -> Iterator[Entry]:
        """Yield the entries of finished jobs of that identity, the newest first."""
        for path in reversed([path for path in self if f"-FINISHED-{identity}-" in path.name]):
            with suppress(OSError, ValueError, TypeError):  # sent meanwhile, or damaged
                yield read_entry(path)

    def clean_up(self) -> None:
        """Remove what processes that died left half-written, or half-removed."""
        lock = self.folder / _LOCK
        parts = [path for path in self._all() if _PART.fullmatch(path.name)]
        if not parts:
            return
        with hold(lock, patience=0) as alone, hold(lock, patience=0) as again:
            if alone and not again:  # twice where there are no locks
                for part in parts:
                    shutil.rmtree(part, ignore_errors=True)

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        self.open()
        return [path for path in self.folder.iterdir() if not path.is_symlink() and path.is_dir()]


def _attach(attach: Write, folder: Path) -> None:
    """Add further artifacts: all of them or, after a fault, none; the numbers stay."""
    apart = folder.with_name("attached")
    apart.mkdir()
    try:
        attach(apart)
        for path in apart.iterdir():
            path.rename(folder / path.name)
    except Exception:
        log.warning("what was to be attached could not be written", exc_info=True)
    finally:
        shutil.rmtree(apart)


def stores() -> list[str]:
    """Return the stores for which results may wait: this folder's own, and servers."""
    server, own = os.environ.get(VARIABLE), Path("runs").resolve() / _name()
    if own.is_dir():
        _check_own(own)
    uris = [store.store_uri(), *([store.store_uri(server)] if server else [])]
    servers = sorted(own.glob(f"*/{_ADDRESS}"))
    uris += [read_regular(path).decode(errors="replace") for path in servers]
    return list(dict.fromkeys(uris))


def read_entry(folder: Path) -> Entry:
    """Return the entry of a folder; raises `OSError`, `ValueError` or `TypeError` if it is none."""
    return Entry(**read_json(folder / _FILE, key=_key(folder)))


def artifacts(folder: Path) -> Path:
    """Return where an entry's artifacts lie."""
    return folder / "artifacts"


def remove(folder: Path) -> None:
    """Take an entry out."""
    gone = folder.with_name(f".{folder.name}")  # so that no one sees half of it
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def push(folder: Path, uri: str) -> str | None:
    """Send an entry to the store, take it out of the outbox and return the run's id.

    It can be interrupted and repeated. None means that another process is sending the entry, or has
    sent it. Whatever the store raises, the entry is still there.
    """
    try:
        with hold(folder / "lock", patience=0) as held:
            if not held:
                return None
            run_id = _send(folder, read_entry(folder), uri=uri)
            remove(folder)
            return run_id
    except FileNotFoundError:
        if folder.exists():
            raise
        return None


def _send(folder: Path, entry: Entry, *, uri: str) -> str:
    found = _digests(artifacts(folder))
    if entry.artifacts and found != entry.artifacts:  # one differs, is missing or was added
        differing = sorted(name for name, _ in found.items() ^ entry.artifacts.items())
        raise DamagedError(f"{artifacts(folder) / differing[0]} is not as it was written")
    info = _open_run(folder, entry, uri=uri)
    client = store.connect(uri)
    # Sent twice, an artifact replaces itself, and a value equal to the one there is no error.
    store.artifacts_of(uri, info).log_artifacts(str(artifacts(folder)))
    _log_values(uri, info.run_id, entry=entry)
    client.set_terminated(info.run_id, entry.status, entry.ended)
    return str(info.run_id)


def _open_run(folder: Path, entry: Entry, *, uri: str) -> RunInfo:
    """Return the run that takes the entry's values; it is created if the store lacks it."""
    from mlflow.exceptions import MlflowException

    client, run = store.connect(uri), None
    if entry.run_id is not None:
        try:
            run = client.get_run(entry.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # else the store is a new one
                raise
    if run is None:
        # A process may have died after it had created the run.
        experiments = [store.experiment_id(uri, name=entry.experiment)]
        found = client.search_runs(experiments, f"tags.`{ENTRY}` = '{folder.name}'", max_results=1)
        if not found:
            return create_run(entry, {ENTRY: folder.name}, uri=uri)
        run = found[0]
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
    if entry.status == "FINISHED":
        # Another process may have taken this one for dead, and closed its run.
        for name in {ERROR_CLASS, ERROR_MESSAGE} & run.data.tags.keys():
            client.delete_tag(run.info.run_id, name)
    return run.info


def create_run(entry: Entry, tags: dict[str, str], *, uri: str) -> RunInfo:
    """Create the run of an entry with what was known when its job started, and these tags."""
    client, experiment = store.connect(uri), store.experiment_id(uri, name=entry.experiment)
    return client.create_run(experiment, entry.started, entry.job_tags | tags, entry.name).info


def _log_values(uri: str, run_id: str, *, entry: Entry) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    client = store.connect(uri)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, entry.ended, 0) for name, value in entry.metrics.items()],
        params=[Param(name, value) for name, value in entry.params.items()],
        tags=[RunTag(name, value) for name, value in entry.tags.items()],
    )
    if entry.source:
        context = InputTag("mlflow.data.context", "evaluation")
        client.log_inputs(run_id, [DatasetInput(Dataset(**entry.source), [context])])


def _write(folder: Path, entry: Entry) -> None:
    """Write the entry into its folder, in one step that a loss of power does not undo."""
    part = folder / f".{_FILE}"
    with part.open("wb") as file:
        # JSON keeps every bit of a float64: Python writes the shortest text that reads back to it.
        file.write(json_bytes(asdict(entry), key=_key(folder)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / _FILE)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def _name() -> str:
    return f"outbox-{os.getuid()}"


def _key(folder: Path) -> str:
    # An entry is written, and removed, under a name that begins with a dot.
    return f"entry {folder.name.lstrip('.')}"


def _check_own(folder: Path) -> None:
    found = folder.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if own and found.st_mode & 0o077 and _modes_are_forced(folder):
        rule = "its filesystem lets others enter whatever the mode: keep it where only you may"
        warn_once(f"{folder} cannot be closed to others; {rule}", about=str(folder))
    elif not own or found.st_mode & 0o077:
        rule = f"must be a folder of user {os.getuid()} that nobody else may enter (chmod 700)"
        kind = f"mode {stat.filemode(found.st_mode)} of user {found.st_uid}"
        raise PermissionError(shown(f"{folder} {rule}, got {kind}"))


def _modes_are_forced(folder: Path) -> bool:
    """Return whether a new folder gets another mode than asked for: on vfat, on WSL, on CIFS."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.mkdir(mode=0o700)
    try:
        return bool(probe.lstat().st_mode & 0o077)
    finally:
        probe.rmdir()
