"""A PostgreSQL of one's own in a temporary folder, and MLflow servers on its databases."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.sweep.conftest import wait_until

_DEBIAN = "/usr/lib/postgresql/*/bin"


def missing() -> str | None:
    """Say what is lacking for a PostgreSQL of one's own, or None."""
    if _programs() is None:
        return "not installed: initdb, pg_ctl (Debian: postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "not installed: psycopg (extra: server)"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses root, and there is no user postgres"
    return None


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/").glob(f"{_DEBIAN[1:]}/initdb"))
    return folders[-1].parent if folders else None


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL that listens on a socket in its folder, and nowhere else."""

    folder: Path

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-l", f"{self.folder}/log", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-m", "immediate")

    def create(self) -> None:
        self._run("initdb", "--auth=trust", "--username=mlflow", "--no-sync")

    def database(self) -> str:
        """Return the address of the database that every cluster has."""
        return f"postgresql+psycopg://mlflow@/postgres?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        programs = _programs()
        assert programs is not None
        command = [str(programs / program), "-D", str(self.folder / "data"), *arguments]
        if os.geteuid() == 0:  # whom PostgreSQL refuses
            command = ["runuser", "-u", "postgres", "--", *command]
        # To a file: the server started by pg_ctl would hold a pipe open.
        with open(self.folder / "output", "a") as output:
            subprocess.run(command, stdout=output, stderr=output, cwd=self.folder, check=True)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make a PostgreSQL and start it; stop it at the end, and leave nothing."""
    # Not below pytest's folder: a socket's path must be short, and its owner may be postgres.
    folder = Path(tempfile.mkdtemp(prefix="dfkde-postgresql-"))
    try:
        user = _user()
        if os.geteuid() == 0 and user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = Cluster(folder)
        made.create()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


@dataclass
class Server:
    """An MLflow server on the loopback, which keeps the artifacts itself.

    Attributes
    ----------
    database : str
        Where it keeps runs.
    folder : Path
        Where it keeps artifacts, and its log.
    """

    database: str
    folder: Path
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "2"),
            *("--backend-store-uri", self.database, "--serve-artifacts"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]
        # Without the processes that wait for work of other kinds.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_until(self._healthy, 180)

    def stop(self) -> None:
        """Kill it and its workers, as a machine that goes down does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
