"""What became of each job of a sweep, and the summary printed at its end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.metrics.registry import HEADLINE, METRICS
from harness.show import say, shown

Status = Literal["finished", "skipped", "busy", "failed", "stopped"]
EXIT_BUSY = 75
"""The exit status where others compute what is missing: `EX_TEMPFAIL`, try again."""


@dataclass(frozen=True)
class Outcome:
    """One job's end.

    Attributes
    ----------
    job : str
        The job's name, as its run is named.
    status : {'finished', 'skipped', 'busy', 'failed', 'stopped'}
        `skipped` where a run of the same job is finished, `busy` where one is running elsewhere,
        `stopped` where the sweep ended before the job.
    run_id : str, optional
        The MLflow run that holds the record.
    metrics : dict of str to float
        By name; those of the earlier run where the job was skipped.
    reason : str, optional
        Why it failed, or which run made it needless, in one line.
    seconds : float
        Wall time of the job.
    n_images : int
        How many images it read.
    identity : str
        The job's identity; empty where it failed before that was known.
    """

    job: str
    status: Status
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    n_images: int = 0
    identity: str = ""

    def headline(self) -> dict[str, float]:
        """Return the metrics of the tables by their display names, where they are defined."""
        return {METRICS[n].display: self.metrics[n] for n in HEADLINE if n in self.metrics}


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of failed jobs."""
    return [outcome for outcome in outcomes if outcome.status == "failed"]


def leave_if_busy(outcomes: Sequence[Outcome]) -> None:
    """End the process with `EXIT_BUSY` where jobs are running elsewhere, for they have no numbers.

    Raises
    ------
    SystemExit
        Then.
    """
    busy = sum(outcome.status == "busy" for outcome in outcomes)
    if busy:
        message = f"{busy} of {len(outcomes)} jobs are running in other processes"
        say(f"{message}; the same command tells later what became of them", error=True)
        raise SystemExit(EXIT_BUSY)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a table with a row for each job: its numbers, or why it has none.

    Parameters
    ----------
    outcomes : sequence of Outcome
        In the order of the jobs.

    Returns
    -------
    str
        Lines of text, without colour.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = (METRICS[name].display for name in HEADLINE)
    table = Table("Job", "Identity", "Status", *names, "Seconds")
    for outcome in outcomes:
        # As text: rich would take a name in brackets for a style or a link.
        table.add_row(*map(Text, _row(outcome)))
    text = io.StringIO()
    Console(file=text, width=_width(outcomes)).print(table)
    return "\n".join([text.getvalue().rstrip(), *(_told(o) for o in outcomes if o.reason)])


def one_line(error: BaseException) -> str:
    r"""Return the error's class and message in one line.

    Examples
    --------
    >>> one_line(ValueError("no such\nfile"))
    'ValueError: no such file'
    """
    return shown(" ".join(f"{type(error).__name__}: {error}".split()))


def _told(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return shown(f"{outcome.job}: skipped ({outcome.reason}); force=true runs it again")
    return shown(f"{outcome.job}: {outcome.status}: {outcome.reason}")


def _row(outcome: Outcome) -> list[str]:
    cells = [_cell(outcome, name) for name in HEADLINE]
    return [
        shown(outcome.job),
        outcome.identity[:8],
        outcome.status,
        *cells,
        f"{outcome.seconds:.1f}",
    ]


def _cell(outcome: Outcome, name: str) -> str:
    if outcome.status == "failed":
        return "failed"
    return f"{outcome.metrics[name]:.3f}" if name in outcome.metrics else "–"


def _width(outcomes: Sequence[Outcome]) -> int:
    from rich.cells import cell_len

    # Wide enough that no cell is folded: a name cut in two cannot be searched for.
    return max((cell_len(shown(outcome.job)) for outcome in outcomes), default=0) + 111
