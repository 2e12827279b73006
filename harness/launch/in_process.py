"""The tasks one after another in this process: backbone and store stay open between them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from harness.launch.loop import Pending
from harness.outcome import Outcome
from harness.stages import Stages
from harness.work import Task, perform


class InProcess:
    """Does each task when it is submitted.

    Parameters
    ----------
    watch : callable, optional
        Called with the name of each stage of a job when it begins.
    """

    size = 1

    def __init__(self, watch: Callable[[str], object] | None = None) -> None:
        self._watch = watch

    def submit(self, task: Task) -> Pending:
        """Do the task."""
        done: Future[Outcome] = Future()
        done.set_result(perform(task, Stages(self._watch)))
        return done

    def wait(self) -> None:
        """Do nothing: what is submitted has ended."""

    def stop(self) -> None:
        """Do nothing: nothing is at work between two tasks."""

    def close(self) -> None:
        """Do nothing."""
