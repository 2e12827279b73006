"""What a sweep asks of a tracking store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from harness.config import Job
from harness.record import Record
from harness.tracking.owner import Heartbeat

Attach = Callable[[Path], None]
"""Writes further artifacts of a run into the folder it is given."""


class Earlier(NamedTuple):
    """A run that makes another one of the same identity needless.

    Attributes
    ----------
    run_id : str, optional
        MLflow's id; None where the run waits in the spool.
    metrics : dict of str to float
        By name; empty while it runs.
    reason : str
        In words.
    """

    run_id: str | None
    metrics: dict[str, float]
    reason: str


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
    """

    job: Job
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: round(time.time() * 1000))
    heartbeat: Heartbeat | None = None
    closed: bool = False

    def close(self) -> bool:
        """Close the run, and tell whether it was open."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        was_open, self.closed = not self.closed, True
        return was_open


class Tracker(Protocol):
    """What the sweep asks of a tracking store; no fault of the store ends a job."""

    def earlier(self, identity: str, *, dataset: str) -> Earlier | None:
        """Return the newest run of that identity that is finished or at work, or None."""

    def start(self, job: Job, identity: str | None) -> OpenRun:
        """Open a run."""

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Keep the record and what `attach` writes, and close the run as FINISHED."""

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Keep the error and close the run as FAILED."""

    def kill(self, run: OpenRun) -> None:
        """Close the run as KILLED, unless it is closed already."""

    def recover(self) -> None:
        """Send what the store could not take, and close the runs of processes that died."""

    def waiting(self) -> str | None:
        """Say which results the store could not take yet, or None."""


class NoTracker:
    """Keeps nothing."""

    def earlier(self, identity: str, *, dataset: str) -> None:
        """Return None: nothing was kept."""

    def start(self, job: Job, identity: str | None) -> OpenRun:
        """Open nothing."""
        return OpenRun(job)

    def finish(self, run: OpenRun, record: Record, *, attach: Attach | None = None) -> None:
        """Write nothing."""

    def fail(self, run: OpenRun, error: BaseException) -> None:
        """Write nothing."""

    def kill(self, run: OpenRun) -> None:
        """Write nothing."""

    def recover(self) -> None:
        """Do nothing."""

    def waiting(self) -> None:
        """Return None: nothing waits."""
