"""Published numbers: DFKDE's beside ours, category by category, and other methods' on their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from harness.metrics.registry import METRICS
from harness.report import layout
from harness.report.declaration import ReportError, Table, read_csv
from harness.report.formats import code, markdown, text
from harness.report.layout import limits, pivot_of, signed
from harness.report.stored import TableResults

AVERAGE = "Average"
METHOD = "dfkde"
"""The method, and the model of the tables that its numbers stand beside."""
_FRACTION = re.compile(r"0\.[0-9]+|1\.0+")
_NUMBERS = ("source", "dataset", "category", "metric", "value")

Values = dict[tuple[str, str, str], Decimal]
"""Numbers by dataset, category and metric, with the digits that were published.

`Average` is a category."""


class Source(NamedTuple):
    """Who published numbers, and how theirs were made otherwise than ours."""

    name: str  # the key in `published.csv`
    label: str
    method: str
    backbone: str  # by our name for it
    reference: str
    differences: str
    values: Values

    def has(self, dataset: str, metric: str = "") -> bool:
        """Return whether there are numbers of a dataset, of one metric or of any."""
        return any(key[0] == dataset and metric in ("", key[2]) for key in self.values)


def published_sources(folder: Path) -> list[Source]:
    """Read the published numbers, if there are any."""
    return read_published(folder) if (folder / "published.csv").exists() else []


def read_published(folder: Path) -> list[Source]:
    """Read `published.csv` and `published_sources.csv`, in the order of the sources."""
    values: dict[str, Values] = {}
    sources: dict[str, Source] = {}

    def add_number(source: str, dataset: str, category: str, metric: str, value: str) -> None:
        held = values.setdefault(source, {})
        if metric not in METRICS:
            raise ReportError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if not _FRACTION.fullmatch(value):
            raise ReportError(f"value must be a fraction from 0.0 to 1.0, got {value!r}")
        if (dataset, category, metric) in held:
            raise ReportError(f"{source} has the {metric} of {dataset}/{category} twice")
        held[dataset, category, metric] = Decimal(value)

    def add_source(name: str, *rest: str) -> None:
        if name in sources:
            raise ReportError(f"source {name} stands twice")
        sources[name] = Source._make((name, *rest, values.pop(name, {})))

    header = ("source", *Source._fields[1:-1])
    read_csv(folder / "published.csv", _NUMBERS, add_number, of="published numbers")
    read_csv(folder / "published_sources.csv", header, add_source, of="sources")
    if values:
        raise ReportError(f"published_sources.csv has no line for {', '.join(values)}")
    return list(sources.values())


def check_categories(tables: Mapping[str, Table], sources: Sequence[Source]) -> None:
    """Refuse numbers of unknown datasets and categories, and of some categories only."""
    known = {t.choice("dataset"): t.config["dataset"]["categories"] for t in tables.values()}
    for source in sources:
        for dataset, metric in dict.fromkeys((d, m) for d, _, m in source.values):
            what = f"published.csv: {source.name}, {metric} of {dataset}"
            if dataset not in known:
                raise ReportError(f"{what}: dataset must be one of {', '.join(sorted(known))}")
            found = [c for d, c, m in source.values if (d, m) == (dataset, metric) and c != AVERAGE]
            wrong = [category for category in found if category not in known[dataset]]
            if wrong:
                there = f"{', '.join(known[dataset])} and {AVERAGE}"
                raise ReportError(f"{what}: no category {', '.join(wrong)}; there are {there}")
            lacking = [category for category in known[dataset] if category not in found]
            if found and lacking:
                rule = f"every category must be there, or {AVERAGE} alone"
                raise ReportError(f"{what}: {rule}; lacking: {', '.join(lacking)}")


def compare_published(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], sources: Sequence[Source]
) -> str:
    """Set every table of DFKDE with a run beside the published numbers of DFKDE, as Markdown.

    Only numbers of the table's own backbone stand beside ours; the others are named.
    """
    check_categories(tables, sources)
    parts, used = [], []
    for name, table in tables.items():
        ours = table.headline and table.choice("model") == METHOD
        if ours and any(row.finished for row in held[name].rows):
            theirs = [s for s in sources if s.method == METHOD and s.has(table.choice("dataset"))]
            parts += _sections(table, held[name], theirs)
            used += [source for source in theirs if source.backbone == table.choice("backbone")]
    if not parts:
        raise ReportError(
            f"no table of {METHOD} with a finished run has published numbers of its dataset"
        )
    return "\n".join(parts + _notes([source for source in sources if source in used], _OURS))


def other_methods(tables: Mapping[str, Table], sources: Sequence[Source]) -> str:
    """List the published numbers of other methods by dataset, as Markdown; none of ours."""
    check_categories(tables, sources)
    others = [source for source in sources if source.method != METHOD]
    parts = []
    for dataset, table in {t.choice("dataset"): t for t in tables.values()}.items():
        for metric in METRICS:
            shown = [source for source in others if source.has(dataset, metric)]
            if shown:
                title = f"{text(table.title)}, other methods, other features"
                grid = _grid_of_others(table, shown, metric=metric)
                parts.append(f"## {title}: {layout.display(metric)}\n\n{markdown(grid, _OTHERS)}")
    if not parts:
        raise ReportError(f"published_sources.csv has no numbers of a method other than {METHOD}")
    return "\n".join(parts + _notes(others, ""))


_OURS = (
    "Published numbers come without per-image scores: the interval is of ours alone, and a"
    " difference has none.\n\n"
)
_OTHERS = f"As published. Other methods on other features: no comparison with {METHOD}."


def _grid_of_others(table: Table, sources: Sequence[Source], *, metric: str) -> layout.Grid:
    lines = [
        (category, *map(_written, _theirs(table, sources, category, metric)))
        for category in (*table.config["dataset"]["categories"], AVERAGE)
    ]
    header = ("Category", *(f"{s.label}: {s.method}" for s in sources))
    return layout.Grid(header, tuple(lines[:-1]), lines[-1])


def _sections(table: Table, results: TableResults, sources: Sequence[Source]) -> list[str]:
    """Compare a table with the sources of its backbone, and name the others."""
    dataset, backbone = table.choice("dataset"), table.choice("backbone")
    title = f"## {text(f'{table.title}, {backbone}')}"
    caption = f"Ours: {code(table.command)}. Differences are ours minus theirs. Best in bold."
    sections = []
    for metric in METRICS:
        beside = [s for s in sources if s.backbone == backbone and s.has(dataset, metric)]
        if beside:
            grid = _grid(table, results, beside, metric=metric)
            sections.append(f"{title}: {layout.display(metric)}\n\n{markdown(grid, caption)}")
    others = [source for source in sources if source.backbone != backbone]
    if others:
        names = ", ".join(f"{text(s.label)} ({code(s.backbone)})" for s in others)
        sections.append(f"{title}: other backbones\n\nNot beside ours: {names}.\n")
    return sections


def _grid(
    table: Table, results: TableResults, sources: Sequence[Source], *, metric: str
) -> layout.Grid:
    ours = layout.grid_of_pivot(pivot_of(table, results.rows, [metric]))
    header = [title for source in sources for title in (source.label, "difference")]
    of: dict[str, Sequence[float | None]] = {
        row.category: (row.metrics.get(metric), row.low.get(metric), row.high.get(metric))
        for row in results.rows
    }
    last = ours.average[1]
    if average := results.averages.get(metric):
        of[AVERAGE], last = average, layout.number(average.value)
    lines = []
    for category, written in [*ours.body, (AVERAGE, last)]:
        theirs = _theirs(table, sources, category, metric)
        lines.append((category, *_line(written, of.get(category, (None, None, None)), theirs)))
    return layout.Grid(("Category", "Ours", layout.INTERVAL, *header), tuple(lines[:-1]), lines[-1])


def _theirs(
    table: Table, sources: Sequence[Source], category: str, metric: str
) -> list[Decimal | None]:
    """Look up a number of each source; an average of theirs may be of more categories."""
    fewer = len(table.categories) < len(table.config["dataset"]["categories"])
    if category == AVERAGE and fewer:
        return [None for _ in sources]
    return [source.values.get((table.choice("dataset"), category, metric)) for source in sources]


def _written(value: Decimal | None) -> str:
    return layout.ABSENT if value is None else str(value)


def _line(
    ours: str, known: Sequence[float | None], theirs: Sequence[Decimal | None]
) -> Iterator[str]:
    """Write one line, given our value and its limits: the best in bold, if there are several."""
    value, low, high = known
    numbers = [None if item is None else float(item) for item in theirs]
    first, *others = layout.best_bold([value, *numbers], [ours, *map(_written, theirs)])
    yield from (first, limits(low, high))
    for cell, other in zip(others, numbers, strict=True):
        yield from (
            cell,
            layout.ABSENT if other is None or value is None else signed(value - other),
        )


def _notes(sources: Sequence[Source], before: str) -> list[str]:
    lines = [f"- {s.label} ({s.reference}): {s.differences}.\n" for s in sources]
    return [before + "".join(lines)] if lines else []
