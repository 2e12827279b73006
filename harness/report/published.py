"""Published numbers: DFKDE's beside ours, category by category, and other methods' on their own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TextIO

from harness.metrics.registry import METRICS
from harness.report.declaration import ReportError, Table, reading
from harness.report.formats import code, markdown, text
from harness.report.grid import ABSENT, FAILED, INTERVAL, Grid, limits, number, signed
from harness.report.stored import TableResults

AVERAGE = "Average"
METHOD = "dfkde"
"""The method, and the model of the tables that its numbers stand beside."""
_FRACTION = re.compile(r"0\.[0-9]+|1\.0+")


@dataclass(frozen=True)
class Source:
    """Who published numbers, and how theirs were made otherwise than ours."""

    name: str
    label: str
    method: str
    backbone: str
    reference: str
    differences: str
    values: dict[tuple[str, str, str], Decimal]

    def has(self, dataset: str, metric: str = "") -> bool:
        """Tell whether there are numbers of a dataset, of one metric or of any."""
        return any(key[0] == dataset and metric in ("", key[2]) for key in self.values)


def read_published(folder: Path) -> list[Source]:
    """Read `published.csv` and `published_sources.csv`, in the order of the sources."""
    values = _read_values(folder / "published.csv")
    sources: dict[str, Source] = {}
    path = folder / "published_sources.csv"
    with reading(path, newline="") as file:
        for where, line in _lines(file, path):
            name = line["source"]
            if name in sources:
                raise ReportError(f"{where}: source {name} stands twice")
            sources[name] = Source(
                name=name,
                label=line["label"],
                method=line["method"],
                backbone=line["backbone"],
                reference=line["reference"],
                differences=line["differences"],
                values=values.pop(name, {}),
            )
    if values:
        raise ReportError(f"published_sources.csv has no line for {', '.join(values)}")
    return list(sources.values())


def _read_values(path: Path) -> dict[str, dict[tuple[str, str, str], Decimal]]:
    values: dict[str, dict[tuple[str, str, str], Decimal]] = {}
    with reading(path, newline="") as file:
        for where, line in _lines(file, path):
            dataset, category, metric = key = (line["dataset"], line["category"], line["metric"])
            held = values.setdefault(line["source"], {})
            if metric not in METRICS:
                raise ReportError(
                    f"{where}: metric must be one of {', '.join(METRICS)}, got {metric!r}"
                )
            if not _FRACTION.fullmatch(line["value"]):
                raise ReportError(
                    f"{where}: value must be a fraction from 0.0 to 1.0, got {line['value']!r}"
                )
            if key in held:
                raise ReportError(
                    f"{where}: {line['source']} has the {metric} of {dataset}/{category} twice"
                )
            held[key] = Decimal(line["value"])
    return values


def _lines(file: TextIO, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the lines of a CSV file, each with where it stands."""
    reader = csv.DictReader(file)
    for line in reader:
        if None in line or None in line.values():
            raise ValueError(f"line {reader.line_num} has not the cells of the header")
        yield f"{path}:{reader.line_num}", line


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
            lacking = [category for category in known[dataset] if category not in found]
            if wrong:
                raise ReportError(
                    f"{what}: no category {', '.join(wrong)};"
                    f" there are {', '.join(known[dataset])} and {AVERAGE}"
                )
            if found and lacking:
                raise ReportError(
                    f"{what}: every category must be there, or {AVERAGE} alone;"
                    f" lacking: {', '.join(lacking)}"
                )


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
            beside = [source for source in theirs if source.backbone == table.choice("backbone")]
            parts += _sections(table, held[name], beside)
            parts += _elsewhere(table, [source for source in theirs if source not in beside])
            used += beside
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
                parts.append(f"## {title}: {METRICS[metric].display}\n\n{markdown(grid, _OTHERS)}")
    if not parts:
        raise ReportError(f"published_sources.csv has no numbers of a method other than {METHOD}")
    return "\n".join(parts + _notes(others, ""))


_OURS = (
    "Published numbers come without per-image scores: the interval is of ours alone, and a"
    " difference has none.\n\n"
)
_OTHERS = f"As published. Other methods on other features: no comparison with {METHOD}."


def _grid_of_others(table: Table, sources: Sequence[Source], *, metric: str) -> Grid:
    header = ("Category", *(f"{s.label}: {s.method}" for s in sources))
    lines = [
        (category, *(ABSENT if v is None else str(v) for v in theirs))
        for category in (*table.config["dataset"]["categories"], AVERAGE)
        for theirs in [_theirs(table, sources, category=category, metric=metric)]
    ]
    return Grid(header, tuple(lines[:-1]), lines[-1])


def _sections(table: Table, results: TableResults, sources: Sequence[Source]) -> list[str]:
    sections = []
    for metric in METRICS:
        beside = [source for source in sources if source.has(table.choice("dataset"), metric)]
        if beside:
            caption = (
                f"Ours: {code(table.command)}. Differences are ours minus theirs. Best in bold."
            )
            grid = _grid(table, results, beside, metric=metric)
            title = f"{_title(table)}: {METRICS[metric].display}"
            sections.append(f"{title}\n\n{markdown(grid, caption)}")
    return sections


def _elsewhere(table: Table, sources: Sequence[Source]) -> list[str]:
    """Name the sources of another backbone than the table's."""
    if not sources:
        return []
    names = ", ".join(f"{text(s.label)} ({code(s.backbone)})" for s in sources)
    return [f"{_title(table)}: other backbones\n\nNot beside ours: {names}.\n"]


def _title(table: Table) -> str:
    backbone = table.choice("backbone")
    return f"## {text(f'{table.title}, {backbone}')}"


def _grid(table: Table, results: TableResults, sources: Sequence[Source], *, metric: str) -> Grid:
    header = ["Category", "Ours", INTERVAL]
    for source in sources:
        header += [source.label, "difference"]
    ours = {row.category: row for row in results.rows}
    body = []
    for category in table.categories:
        row = ours.get(category)
        value = row.metric.get(metric) if row else None
        span = limits(row.low.get(metric), row.high.get(metric)) if row else ABSENT
        missing = FAILED if row is not None and not row.finished else ABSENT
        theirs = _theirs(table, sources, category=category, metric=metric)
        body.append((category, *_line(value, missing, span=span, theirs=theirs)))
    average = results.averages.get(metric)
    value = average.value if average else None
    span = limits(average.low, average.high) if average else ABSENT
    known = sum(metric in row.metric for row in results.rows)
    theirs = _theirs(table, sources, category=AVERAGE, metric=metric)
    if len(table.categories) < len(table.config["dataset"]["categories"]):
        theirs = [None for _ in sources]  # theirs is of more categories
    missing = f"{ABSENT} ({known}/{len(table.categories)})"
    return Grid(
        tuple(header), tuple(body), (AVERAGE, *_line(value, missing, span=span, theirs=theirs))
    )


def _theirs(
    table: Table, sources: Sequence[Source], *, category: str, metric: str
) -> list[Decimal | None]:
    return [source.values.get((table.choice("dataset"), category, metric)) for source in sources]


def _line(
    value: float | None, missing: str, *, span: str, theirs: Sequence[Decimal | None]
) -> list[str]:
    """Write one line: the best of its values in bold, if there is more than one."""
    known = [float(item) for item in (value, *theirs) if item is not None]
    best = number(max(known)) if len(known) > 1 else ""
    cells = [missing if value is None else _bold(number(value), value, best), span]
    for item in theirs:
        cells.append(ABSENT if item is None else _bold(str(item), float(item), best))
        cells.append(ABSENT if item is None or value is None else signed(value - float(item)))
    return cells


def _bold(written: str, value: float, best: str) -> str:
    return f"**{written}**" if number(value) == best else written


def _notes(sources: Sequence[Source], before: str) -> list[str]:
    lines = [f"- {s.label} ({s.reference}): {s.differences}.\n" for s in sources]
    return [before + "".join(lines)] if lines else []
