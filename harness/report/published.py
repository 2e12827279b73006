"""Published numbers beside ours, category by category."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.metrics.registry import METRICS
from harness.report.grid import ABSENT, FAILED, INTERVAL, Grid, limits, number, signed
from harness.report.markdown import code, markdown, text
from harness.report.results import TableResults
from harness.report.table import ReportError, Table, reading

AVERAGE = "Average"


@dataclass(frozen=True)
class Source:
    """Who published numbers, and how theirs were made otherwise than ours.

    Attributes
    ----------
    name, label : str
        The key in `published.csv`, and the name for people.
    backbone, reference, differences : str
        Their backbone, where the numbers stand, and the known differences in weights,
        preprocessing and scoring.
    values : dict of (str, str, str) to float
        By dataset, category and metric; `Average` is a category.
    """

    name: str
    label: str
    backbone: str
    reference: str
    differences: str
    values: dict[tuple[str, str, str], float]


def read_published(folder: Path) -> list[Source]:
    """Read `published.csv` and `published_sources.csv`, in the order of the sources."""
    values: dict[str, dict[tuple[str, str, str], float]] = {}
    with reading(folder / "published.csv", newline="") as file:
        for line in csv.DictReader(file):
            key = (line["dataset"], line["category"], line["metric"])
            values.setdefault(line["source"], {})[key] = float(line["value"])
    with reading(folder / "published_sources.csv", newline="") as file:
        sources = [
            Source(
                name=line["source"],
                label=line["label"],
                backbone=line["backbone"],
                reference=line["reference"],
                differences=line["differences"],
                values=values.pop(line["source"], {}),
            )
            for line in csv.DictReader(file)
        ]
    if values:
        raise ReportError(f"published_sources.csv has no line for {', '.join(values)}")
    return sources


def compare_published(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], sources: Sequence[Source]
) -> str:
    """Set every table with a run beside the published numbers of its dataset, as Markdown."""
    parts, used = [], []
    for name, table in tables.items():
        if table.headline and any(row.finished for row in held[name].rows):
            parts += _sections(table, held[name], sources)
            used += [source for source in sources if _has(source, table)]
    if not parts:
        raise ReportError("no table with a finished run has published numbers beside it")
    return "\n".join([*parts, _notes([source for source in sources if source in used])])


def _sections(table: Table, results: TableResults, sources: Sequence[Source]) -> list[str]:
    sections = []
    for metric in ("image_auroc", "image_f1_max"):
        beside = [source for source in sources if _has(source, table, metric)]
        if beside:
            name = text(f"{table.title}, {table.choice('backbone')}")
            title = f"## {name}: {METRICS[metric].display}\n\n"
            caption = (
                f"Ours: {code(table.command)}. Differences are ours minus theirs. Best in bold."
            )
            sections.append(title + markdown(_grid(table, results, beside, metric=metric), caption))
    return sections


def _has(source: Source, table: Table, metric: str = "") -> bool:
    dataset = table.choice("dataset")
    return any(key[0] == dataset and metric in ("", key[2]) for key in source.values)


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
    missing = f"{ABSENT} ({known}/{len(table.categories)})"
    return Grid(
        tuple(header), tuple(body), (AVERAGE, *_line(value, missing, span=span, theirs=theirs))
    )


def _theirs(
    table: Table, sources: Sequence[Source], *, category: str, metric: str
) -> list[float | None]:
    return [source.values.get((table.choice("dataset"), category, metric)) for source in sources]


def _line(
    value: float | None, missing: str, *, span: str, theirs: Sequence[float | None]
) -> list[str]:
    """Write one line: the best of its values in bold, if there is more than one."""
    known = [item for item in (value, *theirs) if item is not None]
    best = max(known) if len(known) > 1 else None
    cells = [_bold(value, best) if value is not None else missing, span]
    for item in theirs:
        cells.append(ABSENT if item is None else _bold(item, best))
        cells.append(ABSENT if item is None or value is None else signed(value - item))
    return cells


def _bold(value: float, best: float | None) -> str:
    text = number(value)
    return f"**{text}**" if best is not None and text == number(best) else text


def _notes(sources: Sequence[Source]) -> str:
    lines = [
        "Published numbers come without per-image scores: the interval is of ours alone, and a"
        " difference has none.",
        "",
    ]
    lines += [f"- {s.label} ({s.reference}): {s.differences}." for s in sources]
    return "\n".join(lines) + "\n"
