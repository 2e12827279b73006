"""What a sweep shows: its progress, a line when a job ends, and the summary of all jobs."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from shutil import get_terminal_size

import rich.progress
from rich.box import ASCII, HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import Outcome
from harness.system.terminal import say, shown, writable

_METRICS = [METRICS[name].display for name in HEADLINE]
_PART = 24
"""Columns for which metrics make room, so that no shorter part of a job's name is cut in two."""
EXIT_BUSY = 75
"""The exit status where others compute what is missing: `EX_TEMPFAIL`, try again."""


def conclude(outcomes: Sequence[Outcome]) -> None:
    """Print the summary; end the process with 1 if a job failed, or `EXIT_BUSY` if one is busy.

    A busy job runs elsewhere and has no numbers yet.
    """
    say(*summary(outcomes).split("\n"))
    failed, busy = (sum(o.status == status for o in outcomes) for status in ("failed", "busy"))
    if failed:
        say(f"{failed} of {len(outcomes)} jobs failed", error=True)
        raise SystemExit(1)
    if busy:
        message = f"{busy} of {len(outcomes)} jobs are running in other processes"
        say(f"{message}; the same command shows their results later", error=True)
        raise SystemExit(EXIT_BUSY)


def summary(outcomes: Sequence[Outcome], width: int | None = None) -> str:
    """Return a table with a row for each job: its numbers, or why it has none.

    `width` is by default that of the terminal. Where it is too small, the identity goes, then the
    seconds; then names are folded between their parts; then metrics go, the last one first. A name
    is folded anywhere only where one part of it is wider than the table. Where standard output is
    no terminal, the table is as wide as it needs to be: a name cut in two cannot be searched for.
    """
    rows = [
        [
            writable(one.job, sys.stdout),
            one.identity[:8],
            one.status,
            *(_cell(one, name) for name in HEADLINE),
            f"{one.seconds:.1f}",
        ]
        for one in outcomes
    ]
    heads = ["Job", "Identity", "Status", *_METRICS, "Seconds"]
    columns = {head: [row[number] for row in rows] for number, head in enumerate(heads)}
    if width is None and sys.stdout.isatty():
        width = get_terminal_size().columns
    widths = _widths(columns, width)
    utf = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    table = Table(box=HEAVY_HEAD if utf else ASCII)
    for name, wide in widths.items():
        table.add_column(name, width=wide, overflow="fold")
    for row in zip(*(columns[name] for name in widths), strict=True):
        # As text: rich would take a name in brackets for a style or a link.
        table.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=_total(widths)).print(table)
    # Jobs on the same data have the same notes.
    notes = dict.fromkeys(shown(note) for outcome in outcomes for note in outcome.notes)
    return "\n".join([text.getvalue().rstrip(), *chain(*map(_explanations, outcomes)), *notes])


def _widths(columns: Mapping[str, Sequence[str]], width: int | None) -> dict[str, int]:
    """Choose which columns are shown, and how wide."""

    def widest(texts: Iterable[str]) -> int:
        return max(map(cell_len, texts), default=0)

    widths = {name: widest([name, *cells]) for name, cells in columns.items()}
    if width is None or _total(widths) <= width:
        return widths
    # A head of two words takes two lines, which costs no more than one line.
    widths = {name: widest([*name.split(), *cells]) for name, cells in columns.items()}
    going = ["Identity", "Seconds", *reversed(_METRICS)]
    for name in going[:2]:
        if _total(widths) > width:
            del widths[name]
    part = min(_PART, widest(word for name in columns["Job"] for word in name.split()))
    for name in going[2:]:
        if _total(widths | {"Job": part}) > width:
            del widths[name]
    return widths | {"Job": max(1, min(widths["Job"], width - _total(widths | {"Job": 0})))}


def _total(widths: Mapping[str, int]) -> int:
    """Return how wide a table is: each column has a line and a space on both sides."""
    return sum(widths.values()) + 3 * len(widths) + 1


def _explanations(outcome: Outcome) -> Iterator[str]:
    if outcome.status == "skipped":
        again = "force=true runs it again"
        again += " and saves its model, which that run did not" if outcome.model == "" else ""
        yield shown(f"{outcome.job}: skipped ({outcome.reason}); {again}")
    elif outcome.reason:
        yield shown(f"{outcome.job}: {outcome.status}: {outcome.reason}")
    if outcome.status == "finished" and outcome.run_id is not None:
        yield shown(f"{outcome.job}: run {outcome.run_id}")
    if outcome.model:
        yield shown(f"python -m harness.predict {outcome.model} images=FOLDER")


def _cell(outcome: Outcome, name: str) -> str:
    if outcome.status == "failed":
        return "failed"
    return f"{outcome.metrics[name]:.3f}" if name in outcome.metrics else "-"


class Progress(rich.progress.Progress):
    """Shows on standard error what a sweep is doing; shows nothing where that is no terminal."""

    def __init__(self, n_jobs: int, console: Console | None = None) -> None:
        console = Console(stderr=True) if console is None else console
        super().__init__(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._sweep = self.add_task("", total=n_jobs, rate="")
        self._started = time.perf_counter()
        self._images = 0

    def stage(self, name: str) -> None:
        """Show the stage of the current job."""
        self.update(self._sweep, description=name)

    def count(self, outcome: Outcome) -> None:
        """Show that a job has ended."""
        self._images += outcome.n_images
        rate = self._images / (time.perf_counter() - self._started)
        if not self.disable:
            self.print(Text(writable(_line(outcome), self.console.file)))
        self.update(self._sweep, advance=1, rate=f"{rate:.0f} images/s")


def _line(outcome: Outcome) -> str:
    defined = [name for name in HEADLINE if name in outcome.metrics]
    numbers = " ".join(f"{METRICS[name].display} {outcome.metrics[name]:.3f}" for name in defined)
    return f"{outcome.status:8} {outcome.job}  {numbers or outcome.reason or ''}".rstrip()
