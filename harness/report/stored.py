"""The folder `results/`: what was measured, as files that a commit holds."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record import SCHEMA_VERSION, ImageScore, StoredRun
from harness.report.declaration import Cell, ReportError, Table, reading
from harness.report.rows import (
    INTERVAL_METRIC,
    Row,
    check_schema,
    read_rows,
    read_scores,
    row_of,
    to_csv,
    write_rows,
    write_scores,
)
from harness.report.selection import cell_of
from harness.system.terminal import from_cell

if TYPE_CHECKING:
    from harness.report.bootstrap import Resampled


_AVERAGES_HEADER = ("table", "metric", "categories", "average", "low", "high")


@dataclass(frozen=True)
class Average:
    """A metric's mean over all categories of a table with one job for each."""

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
        (
            a.table,
            a.metric,
            str(a.categories),
            repr(a.value),
            _limit_text(a.low),
            _limit_text(a.high),
        )
        for a in averages
    ]
    return to_csv([_AVERAGES_HEADER, *lines])


def read_averages(path: Path) -> tuple[Average, ...]:
    """Read `averages.csv`."""
    with reading(path, newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != _AVERAGES_HEADER:
            raise ReportError(f"{path} has not the columns {', '.join(_AVERAGES_HEADER)}")
        try:
            return tuple(map(_average, reader))
        except ValueError:
            raise ReportError(f"{path}:{reader.line_num} is no line of averages") from None


def _average(line: list[str]) -> Average:
    table, metric, categories, value, low, high = map(from_cell, line)
    return Average(table, metric, int(categories), float(value), _limit(low), _limit(high))


def _limit_text(value: float | None) -> str:
    return "" if value is None else repr(value)


def _limit(text: str) -> float | None:
    return float(text) if text else None


Limits = tuple[float, float]

Environments = dict[str, dict[str, dict[str, str]]]
"""Versions and machine of jobs, by a digest of both."""


@dataclass(frozen=True)
class TableResults:
    """What `results/` holds of one table."""

    rows: tuple[Row, ...] = ()
    scores: dict[str, tuple[ImageScore, ...]] = field(default_factory=dict)
    averages: dict[str, Average] = field(default_factory=dict)
    environments: Environments = field(default_factory=dict)


def results_of(
    table: Table, runs: Mapping[Cell, StoredRun], held: TableResults | None = None
) -> TableResults:
    """Put runs, with their scores, into what a table's files hold; other rows stay as they are."""
    from harness.report.bootstrap import average_limits, cell_limits, resample_cell

    held = held or TableResults()
    scores = dict(held.scores)
    scores |= {c.category: run.record.scores for c, run in runs.items() if table.headline}

    @cache
    def resampled(category: str) -> Resampled | None:
        if not scores.get(category):
            return None
        return resample_cell(f"{table.choice('dataset')}/{category}", scores[category])

    made = {
        cell: row_of(
            run,
            environment=environment_key(run),
            limits=_named(cell_limits(resampled(cell.category))),
        )
        for cell, run in runs.items()
    }
    known = {cell_of(table, row): row for row in held.rows} | made
    rows = tuple(known[cell] for cell in table.cells() if cell in known)
    averages = averages_of(table, rows)
    if made or averages != {m: replace(a, low=None, high=None) for m, a in held.averages.items()}:
        limits = average_limits([resampled(row.category) for row in rows])
        for metric, (low, high) in _named(limits if table.headline else None).items():
            if metric in averages:
                averages[metric] = replace(averages[metric], low=low, high=high)
    else:
        averages = held.averages
    environments = held.environments | {
        environment_key(run): environment(run) for run in runs.values()
    }
    return TableResults(
        rows,
        {row.category: scores[row.category] for row in rows if scores.get(row.category)},
        averages,
        {row.environment: environments[row.environment] for row in rows},
    )


def _named(limits: Limits | None) -> Mapping[str, Limits]:
    return {} if limits is None else {INTERVAL_METRIC: limits}


def averages_of(table: Table, rows: tuple[Row, ...]) -> dict[str, Average]:
    """Average the complete columns of a table with one job per category, without intervals."""
    if not table.headline:
        return {}
    count = len(table.categories)
    averages = {}
    for metric in sorted({metric for row in rows for metric in row.metric}):
        values = complete(rows, metric, categories=count)
        if values is not None:
            averages[metric] = Average(table.name, metric, count, mean(values))
    return averages


def environment(run: StoredRun) -> dict[str, dict[str, str]]:
    """Gather what a run's numbers may depend on outside the code: versions and machine."""
    return {"versions": dict(run.versions), "machine": dict(run.machine)}


def environment_key(run: StoredRun) -> str:
    """Name a run's environment by the digest of its content."""
    text = json.dumps(environment(run), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def files_of(tables: Mapping[str, TableResults]) -> dict[str, str]:
    """Render the whole folder: text by path relative to `results/`."""
    files: dict[str, str] = {}
    environments: Environments = {}
    for name, results in sorted(tables.items()):
        files[f"{name}.csv"] = write_rows(results.rows)
        if results.scores:
            files[f"scores/{name}.csv"] = write_scores(results.scores)
        environments |= results.environments
    averages = [a for _, results in sorted(tables.items()) for a in results.averages.values()]
    files["averages.csv"] = write_averages(averages)
    content = {"schema": SCHEMA_VERSION, "environments": environments}
    files["environment.json"] = (
        json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )
    return files


def read_results(folder: Path, name: str) -> TableResults:
    """Read back one table."""
    rows = tuple(read_rows(folder / f"{name}.csv"))
    environments = _read_environments(folder / "environment.json")
    unknown = sorted({row.environment for row in rows} - set(environments))
    if unknown:
        raise ReportError(f"{folder / 'environment.json'} lacks {', '.join(unknown)} of {name}.csv")
    scores = folder / "scores" / f"{name}.csv"
    return TableResults(
        rows,
        read_scores(scores) if scores.exists() else {},
        {a.metric: a for a in read_averages(folder / "averages.csv") if a.table == name},
        {row.environment: environments[row.environment] for row in rows},
    )


def _read_environments(path: Path) -> Environments:
    with reading(path) as file:
        try:
            content: dict[str, Any] = json.load(file)
        except json.JSONDecodeError as error:
            raise ReportError(
                f"{path} is no JSON: {error}; of a merge, keep the environments of both sides"
            ) from None
        check_schema(content.get("schema"), path)
        environments: Environments = dict(content["environments"])
    return environments


def read_or_empty(folder: Path, name: str) -> TableResults:
    """Read back one table that may not have been written yet."""
    return read_results(folder, name) if (folder / f"{name}.csv").exists() else TableResults()
