"""What a sweep asks of a tracking store."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.config import Job
from harness.record import Record

Attach = Callable[[Path], None]
"""Writes further artifacts of a run into the folder it is given."""


class Known(NamedTuple):
    """What of a job is known before it runs, beside its settings.

    Attributes
    ----------
    identity : str
        See `harness.experiment`.
    official : bool
        Whether its data are the published dataset.
    code : str
        See `harness.provenance`: a run of other code does not make the job needless.
    """

    identity: str
    official: bool
    code: str


class Earlier(NamedTuple):
    """A run that makes another one of the same job needless.

    Attributes
    ----------
    run_id : str, optional
        MLflow's id; None where the run waits in the outbox, or is not known.
    metrics : dict of str to float
        By name; empty while it runs.
    reason : str
        Which run it is, of which code, and where; in words.
    busy : bool
        Whether it is still running.
    """

    run_id: str | None
    metrics: dict[str, float]
    reason: str
    busy: bool = False


@dataclass
class OpenRun:
    """The run of a running job.

    Attributes
    ----------
    job : Job
        The job.
    run_id : str, optional
        MLflow's id; None where no run could be opened.
    tags : dict of str to str
        What was known before the work.
    started : int
        Milliseconds since 1970.
    closed : bool
        Whether its end is kept.
    """

    job: Job
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: round(time.time() * 1000))
    closed: bool = False


class Tracker:
    """What a sweep asks of a tracking store; no fault of the store ends a job.

    This one keeps nothing.
    """

    def earlier(self, job: Job, known: Known) -> Earlier | None:
        """Return the newest finished run of the job, or None."""
        return None

    @contextmanager
    def lock(self, known: Known) -> Iterator[Earlier | None]:
        """Keep other processes from running the job in this block; yield what runs it already."""
        yield None

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open a run; of a job that failed before it was known, only when it is closed."""
        return OpenRun(job)

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED.

        Raises
        ------
        OSError
            If no disk can hold the result.
        """

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""

    def recover(self) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        """

    def close(self, run_ids: Collection[str]) -> dict[str, str]:
        """Close open runs whose processes have ended; return what each open run is, by its id."""
        return {}

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""
        return None

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or None."""
        return None
