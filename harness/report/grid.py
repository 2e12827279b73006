"""A table as text cells, whatever the output: shared by Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.report.row import Row
from harness.report.table import Table

ABSENT = "–"
UNDEFINED = "n/a"
FAILED = "failed"


@dataclass(frozen=True)
class Column:
    """One column: its title and the number it takes from a row."""

    title: str
    metric: str

    def of(self, row: Row) -> float | None:
        """Read the column's number, None where the row has none."""
        return row.metric.get(self.metric)


COLUMNS = (
    Column("Image AUROC", "image_auroc"),
    Column("Image F1", "image_f1_max"),
    Column("Pixel AUROC", "pixel_auroc"),
    Column("Pixel AUPRO", "pixel_aupro"),
)


@dataclass(frozen=True)
class Grid:
    """A finished table of text.

    Attributes
    ----------
    header : tuple of str
        The columns' titles.
    body : tuple of tuple of str
        One line per category.
    average : tuple of str
        The last line.
    caption : str
        What the numbers are and where they come from, in Markdown.
    """

    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    average: tuple[str, ...]
    caption: str


def grid_of(table: Table, rows: Sequence[Row], caption: str) -> Grid:
    """Lay a table's rows out in its declared order, with the average of complete columns."""
    by_category = {row.category: row for row in rows}
    columns = shown_columns(rows)
    ordered = [by_category.get(category) for category in table.categories]
    return Grid(
        header=("Category", *(column.title for column in columns)),
        body=tuple(
            (category, *(_cell(column, row) for column in columns))
            for category, row in zip(table.categories, ordered, strict=True)
        ),
        average=("Average", *(_average(column.of, ordered) for column in columns)),
        caption=caption,
    )


def shown_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Leave out the columns that no finished job of the dataset can define: no masks."""
    finished = [row for row in rows if row.finished]
    return tuple(
        column
        for column in COLUMNS
        if not finished or any(column.metric not in row.undefined for row in finished)
    )


def number(value: float) -> str:
    """Print a metric as a fraction with three decimals."""
    return f"{value:.3f}"


def _cell(column: Column, row: Row | None) -> str:
    if row is None:
        return ABSENT
    if not row.finished:
        return FAILED
    value = column.of(row)
    if value is None:
        return UNDEFINED if column.metric in row.undefined else ABSENT
    return number(value)


def _average(of: Callable[[Row], float | None], rows: Sequence[Row | None]) -> str:
    """Average a complete column; an incomplete one has only its count: `– (1/15)`."""
    values = [of(row) for row in rows if row is not None]
    known = [value for value in values if value is not None]
    if len(known) < len(rows):
        return f"{ABSENT} ({len(known)}/{len(rows)})"
    return number(sum(known) / len(known))


def tally(rows: Sequence[Row], key: Callable[[Row], str]) -> Mapping[str, list[str]]:
    """Group the finished rows' categories by what a caption says of them."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.finished:
            groups.setdefault(key(row), []).append(row.category)
    return groups
