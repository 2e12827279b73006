"""What a sweep asks of a tracking store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from harness.config import Job
from harness.record import Record
from harness.tracking.owner import Heartbeat

Attach = Callable[[Path], None]
"""Writes further artifacts of a run into the folder it is given."""


class Known(NamedTuple):
    """What of a job is known before it runs, beside its settings.

    Attributes
    ----------
    identity : str
        See `harness.identity`.
    official : bool
        Whether its data are the published dataset.
    code : str
        See `harness.code`: a run of other code does not make the job needless.
    """

    identity: str
    official: bool
    code: str


class Earlier(NamedTuple):
    """A run that makes another one of the same job needless.

    Attributes
    ----------
    run_id : str, optional
        MLflow's id; None where the run waits in the spool.
    metrics : dict of str to float
        By name; empty while it runs.
    reason : str
        Which run it is, of which code, and where; in words.
    busy : bool
        Whether it is at work still.
    """

    run_id: str | None
    metrics: dict[str, float]
    reason: str
    busy: bool = False


@dataclass
class OpenRun:
    """A job at work.

    Attributes
    ----------
    job : Job
        The job.
    run_id : str, optional
        MLflow's id; None where nothing is tracked or the store could not be reached.
    tags : dict of str to str
        What was known before the work.
    started : int
        Milliseconds since 1970.
    heartbeat : Heartbeat, optional
        Tells other machines that the process lives.
    closed : bool
        Whether its end is kept.
    unchecked : bool
        Whether the store could not tell if the job had a run already.
    """

    job: Job
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: round(time.time() * 1000))
    heartbeat: Heartbeat | None = None
    closed: bool = False
    unchecked: bool = False

    def close(self) -> bool:
        """Close the run, and tell whether it was open."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        was_open, self.closed = not self.closed, True
        return was_open


class Tracker(Protocol):
    """What the sweep asks of a tracking store; no fault of the store ends a job."""

    def earlier(self, job: Job, known: Known) -> Earlier | None:
        """Return the newest run of the job that is finished or at work, or None."""

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open a run; None where the job failed before it was known."""

    def rival(self, run: OpenRun) -> Earlier | None:
        """Return the run of the same job for which this one was given up, or None."""

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED."""

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""

    def bury(self, process: Mapping[str, str]) -> None:
        """Close the open runs of a process that has died, given tags that name it."""

    def recover(self, *, at_end: bool = False) -> None:
        """Send what the store could not take, and close the runs of processes that died.

        At a sweep's end, this process itself has nothing at work any more.
        """

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""

    def outdated(self) -> str | None:
        """Say which runs of another schema the store holds, or None."""


class NoTracker:
    """Keeps nothing."""

    def earlier(self, job: Job, known: Known) -> None:
        """Return None: nothing was kept."""

    def start(self, job: Job, known: Known | None) -> OpenRun:
        """Open nothing."""
        return OpenRun(job)

    def rival(self, run: OpenRun) -> None:
        """Return None: nobody else is known."""

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Write nothing."""

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Write nothing."""

    def kill(self, run: OpenRun) -> None:
        """Write nothing."""

    def bury(self, process: Mapping[str, str]) -> None:
        """Do nothing."""

    def recover(self, *, at_end: bool = False) -> None:
        """Do nothing."""

    def waiting(self) -> None:
        """Return None: nothing waits."""

    def outdated(self) -> None:
        """Return None: nothing was kept."""
