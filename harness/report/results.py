"""The folder `results/`: what was measured, as files that a commit holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record import SCHEMA_VERSION, ImageScore, StoredRun
from harness.report.averages import Average, complete, mean, read_averages, write_averages
from harness.report.protocol import INTERVAL_METRIC
from harness.report.row import Row, check_schema, read_rows, row_of, write_rows
from harness.report.scores import read_scores, write_scores
from harness.report.table import Cell, ReportError, Table, reading

Limits = tuple[float, float]

Environments = dict[str, dict[str, dict[str, str]]]
"""Versions and machine of jobs, by a digest of both."""


@dataclass(frozen=True)
class TableResults:
    """What `results/` holds of one table.

    Attributes
    ----------
    rows : tuple of Row
        In the table's order.
    scores : dict of str to tuple of ImageScore
        By category, for the finished jobs of a table with one job per category. Tables over
        seeds or settings show spreads over runs and keep no scores.
    averages : dict of str to Average
        By metric, for the complete columns of a table with one job per category.
    environments : dict
        Of those rows.
    """

    rows: tuple[Row, ...] = ()
    scores: dict[str, tuple[ImageScore, ...]] = field(default_factory=dict)
    averages: dict[str, Average] = field(default_factory=dict)
    environments: Environments = field(default_factory=dict)


def results_of(table: Table, runs: Mapping[Cell, StoredRun]) -> TableResults:
    """Turn the selected runs of a table, with their scores, into what its files hold."""
    from harness.report.intervals import average_limits, cell_limits, resample_cell

    scores = {
        cell.category: run.record.scores
        for cell, run in runs.items()
        if table.headline and run.record.scores
    }
    resampled = {
        category: resample_cell(f"{table.choice('dataset')}/{category}", images)
        for category, images in scores.items()
    }
    rows = tuple(
        row_of(
            run,
            environment=environment_key(run),
            limits=_named(cell_limits(resampled.get(cell.category))),
        )
        for cell, run in runs.items()
    )
    averages = averages_of(table, rows, _named(average_limits(list(resampled.values()))))
    environments = {environment_key(run): environment(run) for run in runs.values()}
    return TableResults(rows, scores, averages, environments)


def _named(limits: Limits | None) -> Mapping[str, Limits]:
    return {} if limits is None else {INTERVAL_METRIC: limits}


def averages_of(
    table: Table, rows: tuple[Row, ...], limits: Mapping[str, Limits]
) -> dict[str, Average]:
    """Average the complete columns of a table with one job per category."""
    if not table.headline:
        return {}
    count = len(table.categories)
    averages = {}
    for metric in sorted({metric for row in rows for metric in row.metric}):
        values = complete(rows, metric, categories=count)
        if values is not None:
            low, high = limits.get(metric, (None, None))
            averages[metric] = Average(table.name, metric, count, mean(values), low, high)
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
    """Read back one table.

    Raises
    ------
    ReportError
        A file is missing, of another schema, or lacks the environment of a row.
    """
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
        content: dict[str, Any] = json.load(file)
        check_schema(content.get("schema"), path)
        environments: Environments = dict(content["environments"])
    return environments


def read_or_empty(folder: Path, name: str) -> TableResults:
    """Read back one table that may not have been written yet."""
    return read_results(folder, name) if (folder / f"{name}.csv").exists() else TableResults()
