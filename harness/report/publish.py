"""Write `results/` and the README from runs, and check that they still agree."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from harness.record import StoredRun
from harness.report.caption import caption
from harness.report.grid import grid_of
from harness.report.markdown import markdown
from harness.report.readme import fill
from harness.report.results import (
    TableResults,
    files_of,
    read_or_empty,
    read_results,
    results_of,
)
from harness.report.row import Row, scores_digest
from harness.report.select import select
from harness.report.table import ReportError, Table, read_tables

MEND = "python -m harness.report"
"""The command that makes results and README agree again."""


def publish(root: Path, runs: Iterable[StoredRun], only: Collection[str] = ()) -> list[str]:
    """Write `results/` and the README's tables.

    Parameters
    ----------
    root : Path
        The checkout.
    runs : iterable of StoredRun
        Every tracked run.
    only : collection of str
        The tables to make anew; none given means all. The others keep the results they have.

    Returns
    -------
    list of str
        Notes for the terminal: refused runs, several runs of one cell, rows that went away.
    """
    tables = read_tables(root / "conf")
    unknown = sorted(set(only) - set(tables))
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)}; there are {', '.join(tables)}")
    runs = list(runs)
    notes: list[str] = []
    held: dict[str, TableResults] = {}
    for name, table in tables.items():
        before = read_or_empty(root / "results", name)
        held[name] = before
        if not only or name in only:
            selection = select(table, runs)
            held[name] = results_of(selection.runs.values())
            notes += [*selection.notes, *_gone(name, before, held[name])]
    _write(root, tables, held)
    return notes


def _gone(name: str, before: TableResults, after: TableResults) -> list[str]:
    kept = {row.category for row in after.rows}
    return [
        f"{name}: {row.category} is no longer shown, its run {row.run_id} is not in the store"
        for row in before.rows
        if row.category not in kept
    ]


def _write(root: Path, tables: Mapping[str, Table], held: Mapping[str, TableResults]) -> None:
    readme = root / "README.md"
    rows = {name: results.rows for name, results in held.items()}
    filled = fill(readme.read_text(encoding="utf-8"), _markdowns(tables, rows))
    for path, text in files_of(held).items():
        target = root / "results" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    readme.write_text(filled, encoding="utf-8", newline="\n")


def _markdowns(tables: Mapping[str, Table], rows: Mapping[str, tuple[Row, ...]]) -> dict[str, str]:
    return {
        name: markdown(grid_of(table, rows[name], caption(table, rows[name])))
        for name, table in tables.items()
    }


def check(root: Path) -> str:
    """Compare README and results with each other and with the schema, without any run.

    Parameters
    ----------
    root : Path
        The checkout.

    Returns
    -------
    str
        A unified diff from the README as it is to what the results say; empty when they agree.

    Raises
    ------
    ReportError
        A marker, a file or a schema is wrong, or the scores are not those of the rows.
    """
    tables = read_tables(root / "conf")
    held = {name: read_results(root / "results", name) for name in tables}
    for name, results in held.items():
        _check_rows(tables[name], results)
    rows = {name: results.rows for name, results in held.items()}
    readme = (root / "README.md").read_text(encoding="utf-8")
    filled = fill(readme, _markdowns(tables, rows))
    lines = difflib.unified_diff(
        readme.splitlines(keepends=True),
        filled.splitlines(keepends=True),
        fromfile="README.md",
        tofile="README.md as results/ has it",
    )
    return "".join(lines)


def _check_rows(table: Table, results: TableResults) -> None:
    where = f"results/{table.name}.csv"
    found = [row.category for row in results.rows]
    if found != [category for category in table.categories if category in found]:
        raise ReportError(f"{where} has rows {', '.join(found)}, not in the order of {table.title}")
    for row in results.rows:
        if scores_digest(results.scores.get(row.category, ())) != row.scores_digest:
            raise ReportError(
                f"results/scores/{table.name}.csv: the scores of {row.category}"
                " are not those of its run"
            )
