"""How far a sweep is: one line for each job that ends and a bar, on a terminal only."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from harness.outcome import Outcome
from harness.system.terminal import writable


class Progress:
    """Shows on standard error what a sweep is doing; says nothing where that is no terminal.

    Parameters
    ----------
    n_jobs : int
        How many jobs there are.
    console : Console, optional
        Where to write.
    """

    def __init__(self, n_jobs: int, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._bar = Bar(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=n_jobs, rate="")
        self._started = time.perf_counter()
        self._images = 0

    def __enter__(self) -> Progress:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Remove the bar; the lines stay."""
        self._bar.stop()

    def stage(self, name: str) -> None:
        """Show the stage of the current job."""
        self._bar.update(self._task, description=name)

    def count(self, outcome: Outcome) -> None:
        """Show that a job has ended."""
        self._images += outcome.n_images
        rate = self._images / (time.perf_counter() - self._started)
        if not self._bar.disable:
            self._bar.print(Text(writable(_line(outcome), self._console.file)))
        self._bar.update(self._task, advance=1, rate=f"{rate:.0f} images/s")


def _line(outcome: Outcome) -> str:
    numbers = " ".join(f"{name} {value:.3f}" for name, value in outcome.headline().items())
    return f"{outcome.status:8} {outcome.job}  {numbers or outcome.reason or ''}".rstrip()
