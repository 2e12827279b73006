"""Write `results/` and the README from runs: add and replace rows, and keep the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from harness.atomic import write_together
from harness.record import StoredRun
from harness.report.caption import caption
from harness.report.grid import grid_of
from harness.report.markdown import markdown
from harness.report.readme import check_markers, fill, markers, set_aside
from harness.report.results import TableResults, files_of, read_or_empty, results_of
from harness.report.row import Row
from harness.report.scores import backed_scores
from harness.report.select import Read, as_read, built_otherwise, mismatch, select
from harness.report.table import ReportError, Table, read_tables, reading

_TRACES = ("commit", "environment", "identity", "data_fingerprint", "scores_digest")
"""What of a row tells whether a newer one is of the same code, data and scores."""


def publish(
    root: Path,
    runs: Iterable[StoredRun],
    *,
    only: Collection[str] = (),
    drop: Callable[[str, Row], bool] = lambda table, row: False,
    read: Read = as_read,
) -> tuple[list[str], list[str]]:
    """Write `results/` and the README's tables: every file, or none.

    Parameters
    ----------
    root : Path
        The checkout.
    runs : iterable of StoredRun
        Every tracked run, with or without its per-image scores.
    only : collection of str
        The tables to make anew; none given means all. The others stay as they are.
    drop : callable
        Whether a published row of a table is not to be kept; all are by default.
    read : callable
        Reads the record of a finished run, with its scores.

    Returns
    -------
    notes : list of str
        Refused runs, several runs of one cell, rows that were replaced or went away.
    refusals : list of str
        Why a table could not be made; it stays as it is.

    Raises
    ------
    ReportError
        Nothing can be written: a declaration, a marker or an existing result is wrong.
    OSError
        A file cannot be written; nothing has been changed.
    """
    tables, results = read_tables(root / "conf"), root / "results"
    names = {*tables, *tables.refused}
    unknown = sorted(set(only) - names)
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    with reading(root / "README.md") as file:
        text = file.read()
    aside = set_aside(tables, text, results, wanted=only)
    if not only:
        check_markers(text, tables, known=names)
    refusals = [tables.refused[name] for name in only or markers(text) if name in tables.refused]
    held = {
        name: read_or_empty(results, name)
        for name in names
        if name in tables or (results / f"{name}.csv").exists()
    }
    runs, notes = list(runs), []
    if aside and not only:
        notes.append(f"not shown, for README.md has no marker: {', '.join(aside)}")
    made: dict[str, Table] = {}
    for name in filter(tables.__contains__, only or tables):
        table, before = tables[name], held[name]
        kept = tuple(row for row in before.rows if not drop(name, row))
        try:
            for row in kept:
                check_row(table, row)
            selection = select(table, runs, published=kept, read=read)
            after = results_of(table, selection.runs, replace(before, rows=kept))
            if table.headline:
                backed_scores(name, after.rows, after.scores)
        except ReportError as error:
            refusals.append(str(error))
            continue
        made[name], held[name] = table, after
        notes += [*selection.notes, *_changed(table, before.rows, after.rows)]
    notes += _write(root, held, readme=fill(text, markdowns(made, held)))
    return notes, refusals


def check_row(table: Table, row: Row) -> None:
    """Refuse a published row that is not as its table is declared."""
    difference = mismatch(table, row) or built_otherwise(table, row)
    if difference:
        raise ReportError(
            f"results/{table.name}.csv: {row.category} of run {row.run_id} is not as"
            f" conf/experiment/{table.name}.yaml declares it: {difference}; to drop what is"
            f" published: python -m harness.report --replace {table.name}"
        )


def _changed(table: Table, before: Iterable[Row], after: Iterable[Row]) -> Iterator[str]:
    """Tell which rows went away or are of other runs now, and what differs in those."""

    def cell(row: Row) -> tuple[str, int, str | None]:
        return row.category, row.seed, row.setting.get(table.axis)

    now = {cell(row): row for row in after}
    for row in before:
        new, what = now.get(cell(row)), f"{table.name}: {row.category} of run {row.run_id}"
        if new is None:
            yield f"{what} is no longer shown"
        elif new.run_id != row.run_id:
            changed = [trace for trace in _TRACES if getattr(new, trace) != getattr(row, trace)]
            told = ", ".join(changed) or "nothing"
            yield f"{what} gives way to run {new.run_id}; changed: {told}"


def _write(root: Path, held: Mapping[str, TableResults], *, readme: str) -> list[str]:
    """Write what is not there yet, remove scores without a row, and say which."""
    results = root / "results"
    files: dict[Path, bytes | None] = {
        results / path: content.encode(errors="surrogatepass")
        for path, content in files_of(held).items()
    }
    stray = sorted({*results.glob("scores/*.csv")} - set(files))
    files |= dict.fromkeys(stray)
    files[root / "README.md"] = readme.encode()
    write_together({p: data for p, data in files.items() if data is None or data != _content(p)})
    return [f"{path}: no published row has these scores; the file is removed" for path in stray]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def markdowns(tables: Mapping[str, Table], held: Mapping[str, TableResults]) -> dict[str, str]:
    """Render every table as the README has it."""
    return {
        name: markdown(grid_of(table, held[name]), caption(table, held[name].rows))
        for name, table in tables.items()
    }
