"""The folder `results/`: what was measured, as files that a commit holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.record import SCHEMA_VERSION, ImageScore, StoredRun
from harness.report.declaration import (
    INTERVAL_METRIC,
    Cell,
    ReportError,
    Table,
    read_csv,
    reading,
)
from harness.report.rows import (
    Row,
    Scores,
    check_schema,
    check_scores,
    read_rows,
    read_scores,
    row_of,
    to_csv,
    write_rows,
    write_scores,
)
from harness.report.selection import cell_of

if TYPE_CHECKING:
    from harness.report.bootstrap import Resampled

Environments = dict[str, dict[str, dict[str, str]]]
"""Versions and machine of jobs, by a digest of both."""

_AVERAGES = ("table", "metric", "categories", "average", "low", "high")


class Average(NamedTuple):
    """A metric's mean over all categories of a table with one job for each, and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TableResults:
    """What `results/` holds of one table.

    Scores and averages are of tables with one job per category. Tables over seeds or settings show
    spreads over runs and keep none.
    """

    rows: tuple[Row, ...] = ()
    scores: dict[str, tuple[ImageScore, ...]] = field(default_factory=dict)
    averages: dict[str, Average] = field(default_factory=dict)
    environments: Environments = field(default_factory=dict)


def backed_scores(name: str, held: TableResults) -> Scores:
    """Return a table's scores, all of which its finished rows must stand behind."""
    finished = {row.category: row for row in held.rows if row.finished}
    stray = [category for category in held.scores if category not in finished]
    if stray:
        raise ReportError(
            f"results/scores/{name}.csv has scores of {', '.join(stray)}, of which"
            f" results/{name}.csv has no finished row"
        )
    for category, row in finished.items():
        try:
            check_scores(row, held.scores.get(category, ()))
        except ReportError as error:
            raise ReportError(f"results/scores/{name}.csv: {error}") from None
    return held.scores


def results_of(table: Table, runs: Mapping[Cell, StoredRun], held: TableResults) -> TableResults:
    """Put runs, with their scores, into what a table's files hold; other rows stay as they are."""
    from harness.report.bootstrap import average_limits, cell_limits, images_of, resample

    scores = dict(held.scores)
    scores |= {c.category: run.record.scores for c, run in runs.items() if table.headline}

    @cache
    def resampled(category: str) -> Resampled | None:
        try:
            key = f"{table.choice('dataset')}/{category}"
            return resample(images_of(scores.get(category, ())), key=key)
        except ValueError:  # too few images
            return None

    environments, known = dict(held.environments), {cell_of(table, row): row for row in held.rows}
    for cell, run in runs.items():
        environment = {"versions": dict(run.versions), "machine": dict(run.machine)}
        text = json.dumps(environment, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        limits = cell_limits(resampled(cell.category))
        own = {} if limits is None else {INTERVAL_METRIC: limits}
        environments[key], known[cell] = environment, row_of(run, environment=key, limits=own)
    rows = tuple(known[cell] for cell in table.cells() if cell in known)
    averages = averages_of(table, rows)
    if not runs and averages == {m: Average(a.value) for m, a in held.averages.items()}:
        averages = held.averages
    elif INTERVAL_METRIC in averages:
        low, high = average_limits([resampled(row.category) for row in rows]) or (None, None)
        averages[INTERVAL_METRIC] = Average(averages[INTERVAL_METRIC].value, low, high)
    return TableResults(
        rows,
        {row.category: scores[row.category] for row in rows if scores.get(row.category)},
        averages,
        {row.environment: environments[row.environment] for row in rows},
    )


def averages_of(table: Table, rows: Iterable[Row]) -> dict[str, Average]:
    """Average the complete columns of a table with one job per category, without intervals."""
    found: dict[str, list[float]] = {}
    for row in rows if table.headline else ():
        for metric, value in row.metrics.items():
            found.setdefault(metric, []).append(value)
    complete = len(table.categories)
    return {m: Average(mean(v)) for m, v in sorted(found.items()) if len(v) == complete}


def mean(values: Iterable[float]) -> float:
    """Average in the order given, so that the last bit is the same everywhere."""
    values = list(values)
    return sum(values) / len(values)


def files_of(tables: Mapping[str, TableResults]) -> dict[str, str]:
    """Render the whole folder: text by path relative to `results/`."""
    files: dict[str, str] = {}
    environments: Environments = {}
    averages = []
    for name, results in sorted(tables.items()):
        files[f"{name}.csv"] = write_rows(results.rows)
        if results.scores:
            files[f"scores/{name}.csv"] = write_scores(results.scores)
        environments |= results.environments
        count = str(len(results.rows))  # an average is over every category
        for metric, average in results.averages.items():
            exact = ("" if number is None else repr(number) for number in average)
            averages.append((name, metric, count, *exact))
    files["averages.csv"] = to_csv([_AVERAGES, *averages])
    content = {"schema": SCHEMA_VERSION, "environments": environments}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    return files | {"environment.json": f"{text}\n"}


def read_results(folder: Path, name: str) -> TableResults:
    """Read back one table."""
    rows, scores = read_rows(folder / f"{name}.csv"), folder / "scores" / f"{name}.csv"
    environments = _read_environments(folder / "environment.json")
    unknown = sorted({row.environment for row in rows} - set(environments))
    if unknown:
        raise ReportError(f"{folder / 'environment.json'} lacks {', '.join(unknown)} of {name}.csv")
    averages = read_csv(folder / "averages.csv", _AVERAGES, _average, of="averages")
    return TableResults(
        rows,
        read_scores(scores) if scores.exists() else {},
        {metric: average for table, metric, average in averages if table == name},
        {row.environment: environments[row.environment] for row in rows},
    )


def _average(table: str, metric: str, _: str, *numbers: str) -> tuple[str, str, Average]:
    value, *limits = numbers
    return table, metric, Average(float(value), *(float(end) if end else None for end in limits))


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
