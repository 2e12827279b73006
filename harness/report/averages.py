"""The last line of a table: averages over its categories, with their intervals, as a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.report.row import Row, to_csv
from harness.report.table import ReportError, reading
from harness.system.terminal import from_cell

_HEADER = ("table", "metric", "categories", "average", "low", "high")


@dataclass(frozen=True)
class Average:
    """A metric's mean over all categories of a table with one job for each.

    Attributes
    ----------
    table, metric : str
        Which column.
    categories : int
        How many; an incomplete column has no average.
    value : float
        The mean.
    low, high : float, optional
        Its 95 % bootstrap interval; None where the metric has none.
    """

    table: str
    metric: str
    categories: int
    value: float
    low: float | None = None
    high: float | None = None


def mean(values: Iterable[float]) -> float:
    """Average in the order given, so that the last bit is the same everywhere."""
    values = list(values)
    return sum(values) / len(values)


def complete(rows: Iterable[Row], metric: str, *, categories: int) -> list[float] | None:
    """Gather a metric of every category, None when one is without."""
    values = [row.metric[metric] for row in rows if metric in row.metric]
    return values if len(values) == categories else None


def write_averages(averages: Iterable[Average]) -> str:
    """Write averages as CSV at full precision."""
    lines = [
        (a.table, a.metric, str(a.categories), repr(a.value), _text(a.low), _text(a.high))
        for a in averages
    ]
    return to_csv([_HEADER, *lines])


def read_averages(path: Path) -> tuple[Average, ...]:
    """Read `averages.csv`."""
    with reading(path, newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != _HEADER:
            raise ReportError(f"{path} has not the columns {', '.join(_HEADER)}")
        try:
            return tuple(map(_average, reader))
        except ValueError:
            raise ReportError(f"{path}:{reader.line_num} is no line of averages") from None


def _average(line: list[str]) -> Average:
    table, metric, categories, value, low, high = map(from_cell, line)
    return Average(table, metric, int(categories), float(value), _number(low), _number(high))


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)


def _number(text: str) -> float | None:
    return float(text) if text else None
