"""The folder `results/`: what was measured, as files that a commit holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record import SCHEMA_VERSION, ImageScore, StoredRun
from harness.report.row import Row, read_rows, row_of, write_rows
from harness.report.scores import read_scores, write_scores
from harness.report.table import ReportError

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
        By category, for finished jobs.
    environments : dict
        Of those rows.
    """

    rows: tuple[Row, ...]
    scores: dict[str, tuple[ImageScore, ...]]
    environments: Environments


def results_of(runs: Iterable[StoredRun]) -> TableResults:
    """Turn the selected runs of a table into what its files hold."""
    runs = list(runs)
    environments = {environment_key(run): environment(run) for run in runs}
    rows = tuple(row_of(run, environment=environment_key(run), low={}, high={}) for run in runs)
    scores = {run.record.category: run.record.scores for run in runs if run.record.scores}
    return TableResults(rows, scores, environments)


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
        files[f"scores/{name}.csv"] = write_scores(results.scores)
        environments |= results.environments
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
    used = {row.environment: environments[row.environment] for row in rows}
    return TableResults(rows, read_scores(folder / "scores" / f"{name}.csv"), used)


def _read_environments(path: Path) -> Environments:
    if not path.is_file():
        raise ReportError(f"{path} is missing")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA_VERSION:
        raise ReportError(
            f"{path} has schema {content.get('schema')}, this code has {SCHEMA_VERSION}"
        )
    environments: Environments = content["environments"]
    return environments


def read_or_empty(folder: Path, name: str) -> TableResults:
    """Read back one table that may not have been written yet."""
    if not (folder / f"{name}.csv").exists():
        return TableResults((), {}, {})
    return read_results(folder, name)
