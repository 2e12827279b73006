"""Write `results/` and the README from runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from harness.atomic import write_atomically
from harness.record import ImageScore, StoredRun
from harness.report.caption import caption
from harness.report.grid import grid_of
from harness.report.markdown import markdown
from harness.report.readme import fill, markers, set_aside
from harness.report.results import TableResults, files_of, read_or_empty, results_of
from harness.report.select import select
from harness.report.table import Cell, ReportError, Table, Tables, read_tables, reading

ReadScores = Callable[[StoredRun], tuple[ImageScore, ...]]
"""How the per-image scores of a selected run are read."""


def scores_held(run: StoredRun) -> tuple[ImageScore, ...]:
    """Read the scores of a run that has them in its record."""
    return run.record.scores


def publish(
    root: Path,
    runs: Iterable[StoredRun],
    *,
    only: Collection[str] = (),
    read_scores: ReadScores = scores_held,
) -> tuple[list[str], list[str]]:
    """Write `results/` and the README's tables.

    Parameters
    ----------
    root : Path
        The checkout.
    runs : iterable of StoredRun
        Every tracked run, with or without its per-image scores.
    only : collection of str
        The tables to make anew; none given means all. The others keep the results they have.
    read_scores : callable
        Reads the per-image scores of a selected run.

    Returns
    -------
    notes : list of str
        Refused runs, several runs of one cell, rows that went away.
    refusals : list of str
        Why a table could not be made; it keeps the results it had.

    Raises
    ------
    ReportError
        Nothing can be written: a declaration, a marker or an existing result is wrong.
    """
    tables = read_tables(root / "conf")
    unknown = sorted(set(only) - set(tables) - set(tables.refused))
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)}; there are {', '.join(tables)}")
    with reading(root / "README.md") as file:
        readme = file.read()
    aside = set_aside(tables, readme, root / "results", wanted=only)
    wanted = {*only, *markers(readme)}
    refusals = [reason for name, reason in tables.refused.items() if name in wanted]
    runs, notes = list(runs), []
    if aside and not only:
        notes.append(f"not shown, for README.md has no marker: {', '.join(aside)}")
    held = {name: read_or_empty(root / "results", name) for name in tables}
    for name in [name for name in only if name in tables] if only else tables:
        before = held[name]
        try:
            selection = select(tables[name], runs)
            chosen = _with_scores(selection.runs, read_scores)
        except ReportError as error:
            refusals.append(str(error))
            continue
        held[name] = results_of(tables[name], chosen)
        notes += [*selection.notes, *_gone(name, before, held[name])]
    _write(root, tables, held)
    return notes, refusals


def _with_scores(runs: Mapping[Cell, StoredRun], read: ReadScores) -> dict[Cell, StoredRun]:
    """Read the scores of the finished runs among those selected."""
    return {
        cell: replace(run, record=replace(run.record, scores=read(run)))
        if run.status == "finished"
        else run
        for cell, run in runs.items()
    }


def _gone(name: str, before: TableResults, after: TableResults) -> list[str]:
    kept = {row.category for row in after.rows}
    return [
        f"{name}: {row.category} is no longer shown, its run {row.run_id} is not in the store"
        for row in before.rows
        if row.category not in kept
    ]


def _write(root: Path, tables: Tables, held: Mapping[str, TableResults]) -> None:
    readme = root / "README.md"
    with reading(readme) as file:
        filled = fill(file.read(), markdowns(tables, held), kept=tables.refused)
    for path, text in files_of(held).items():
        write_atomically(root / "results" / path, text.encode(errors="surrogatepass"))
    write_atomically(readme, filled.encode())


def markdowns(tables: Mapping[str, Table], held: Mapping[str, TableResults]) -> dict[str, str]:
    """Render every table as the README has it."""
    return {
        name: markdown(grid_of(table, held[name]), caption(table, held[name].rows))
        for name, table in tables.items()
    }
