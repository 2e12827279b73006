"""Image AUROC by category as bars with intervals: page elements, so that text stays readable."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.grid import limits, number
from harness.report.protocol import INTERVAL_METRIC
from harness.report.row import Row
from harness.system.terminal import in_markup

CHANCE = 0.5


def auroc_bars(rows: Sequence[Row]) -> str:
    """Draw a bar from chance to the AUROC of each category, and its interval as a line.

    The axis runs from 0.5, or from below the smallest limit, to 1.
    """
    known = [row for row in rows if INTERVAL_METRIC in row.metric]
    smallest = min((_low(row) for row in known), default=CHANCE)
    start = min(CHANCE, int(smallest * 10) / 10)
    lines = "".join(_bar(row, start) for row in known)
    ticks = "".join(
        f'<span style="left:{_share(tick / 10, start)}%">{tick / 10:g}</span>'
        for tick in range(round(start * 10), 11)
    )
    return (
        f'<div class="bars" role="list">{lines}</div>'
        f'<div class="bars ticks" aria-hidden="true"><i></i><div class="track">{ticks}</div></div>'
    )


def _low(row: Row) -> float:
    return min(row.metric[INTERVAL_METRIC], row.low.get(INTERVAL_METRIC, 1.0))


def _share(value: float, start: float) -> float:
    return round(100 * (value - start) / (1 - start), 2)


def _bar(row: Row, start: float) -> str:
    value = row.metric[INTERVAL_METRIC]
    low, high = row.low.get(INTERVAL_METRIC), row.high.get(INTERVAL_METRIC)
    left, right = sorted((_share(value, start), _share(CHANCE, start)))
    bar = f'<b style="left:{left}%;width:{right - left:.2f}%"></b>'
    if low is not None and high is not None:
        left, width = _share(low, start), _share(high, start) - _share(low, start)
        bar += f'<u style="left:{left}%;width:{width:.2f}%"></u>'
    text = f"{number(value)} ({limits(low, high)})"
    return (
        f'<div role="listitem"><i>{in_markup(row.category)}</i>'
        f'<div class="track" title="{text}">{bar}</div><span>{number(value)}</span></div>'
    )
