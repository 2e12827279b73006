"""Write `results/` and the pages from runs: add and replace rows, and keep the others."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from harness.record import StoredRun
from harness.report import stored
from harness.report.declaration import ReportError, Table, read_tables
from harness.report.readme import check_markers, declared, filled, markers, overviews, read_pages
from harness.report.rows import Row
from harness.report.selection import Read, as_read, built_otherwise, cell_of, mismatch, select
from harness.system.files import write_together

_TRACES = ("commit", "environment", "identity", "data_fingerprint", "scores_digest")
"""What two rows of a cell are compared by: code, data and scores."""


def publish(
    root: Path,
    runs: Iterable[StoredRun],
    *,
    only: Collection[str] = (),
    drop: Callable[[str, Row], bool] = lambda table, row: False,
    read: Read = as_read,
) -> tuple[list[str], list[str]]:
    """Write `results/`, and what stands at the markers of the pages: every file, or none.

    A table without a marker is kept in `results/` alone. Given `only` some tables, the others stay
    as they are; `drop` returns whether a published row is not kept. Returned are notes for the
    terminal, and why tables could not be made, which stay as they are. An `OSError` means that
    nothing has been changed.
    """
    tables, results = read_tables(root / "conf"), root / "results"
    names = {*tables, *tables.refused}
    unknown = sorted(set(only) - names)
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    pages = read_pages(root)
    found = markers(pages)
    if not only:
        check_markers(found, tables)
    marked = [marker.name for marker in found if marker.kind == "table"]
    refusals = [tables.refused[name] for name in only or marked if name in tables.refused]
    held = {
        name: stored.read_or_empty(results, name)
        for name in names
        if name in tables or (results / f"{name}.csv").exists()
    }
    runs, notes = list(runs), []
    made: dict[str, Table] = {}
    for name in filter(tables.__contains__, only or tables):
        table, rows = tables[name], held[name].rows
        kept = tuple(row for row in rows if not drop(name, row))
        try:
            held[name], own = _updated(table, replace(held[name], rows=kept), runs, read)
        except ReportError as error:
            refusals.append(str(error))
            continue
        made[name] = table
        notes += [*own, *_changed(table, rows, held[name].rows)]
    sound = {
        name: table
        for name, table in tables.items()
        if not any(_misfit(table, row) for row in held[name].rows)
    }
    contents = declared(found, made, held) | overviews(found, sound, held, results)
    for name in [name for name in held if not held[name].rows and name not in marked]:
        if not (results / f"{name}.csv").exists():
            del held[name]
    pages = {page: filled(page, content, contents) for page, content in pages.items()}
    notes += _write(root, held, pages=pages)
    return notes, refusals


def _updated(
    table: Table, held: stored.TableResults, runs: Iterable[StoredRun], read: Read
) -> tuple[stored.TableResults, tuple[str, ...]]:
    """Add the runs of a table to its rows; return notes, too."""
    check_rows(table, held.rows)
    chosen, notes = select(table, runs, published=held.rows, read=read)
    results = stored.results_of(table, chosen, held)
    if table.headline:
        stored.backed_scores(table.name, results)
    return results, notes


def _misfit(table: Table, row: Row) -> str:
    return mismatch(table, row) or built_otherwise(table, row)


def check_rows(table: Table, rows: Iterable[Row]) -> None:
    """Refuse published rows that are not as their table is declared."""
    for row in rows:
        if misfit := _misfit(table, row):
            raise ReportError(
                f"results/{table.name}.csv: {row.category} of run {row.run_id} is not as"
                f" conf/experiment/{table.name}.yaml declares it: {misfit}; to drop what is"
                f" published: python -m harness.report --replace {table.name}"
            )


def _changed(table: Table, before: Iterable[Row], after: Iterable[Row]) -> Iterator[str]:
    """List the rows that went away or are of other runs now, and what differs in those."""
    now = {cell_of(table, row): row for row in after}
    for row in before:
        new, what = (
            now.get(cell_of(table, row)),
            f"{table.name}: {row.category} of run {row.run_id}",
        )
        if new is None:
            yield f"{what} is no longer shown"
        elif new.run_id != row.run_id:
            changed = [trace for trace in _TRACES if getattr(new, trace) != getattr(row, trace)]
            difference = ", ".join(changed) or "nothing"
            yield f"{what} is replaced by run {new.run_id}; changed: {difference}"


def _write(
    root: Path, held: Mapping[str, stored.TableResults], *, pages: Mapping[str, str]
) -> list[str]:
    """Write what is not there yet, remove scores without a row, and say which."""
    results = root / "results"
    files: dict[Path, bytes | None] = {
        results / path: content.encode(errors="surrogatepass")
        for path, content in stored.files_of(held).items()
    }
    stray = sorted({*results.glob("scores/*.csv")} - set(files))
    files |= dict.fromkeys(stray)
    files |= {root / page: text.encode() for page, text in pages.items()}
    write_together({p: data for p, data in files.items() if data is None or data != _content(p)})
    return [f"{path}: no published row has these scores; the file is removed" for path in stray]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def check(root: Path) -> str:
    """Return the difference of the pages to what the results say, without any run; empty for none.

    Raises `ReportError` where a marker, a file or a schema is wrong, or results contradict.
    """
    tables, folder = read_tables(root / "conf"), root / "results"
    pages = read_pages(root)
    found = markers(pages)
    marked = {marker.name for marker in found if marker.kind == "table"}
    held = {
        name: stored.read_results(folder, name)
        for name in (*tables, *tables.refused)
        if (name in marked and name in tables) or (folder / f"{name}.csv").exists()
    }
    sound = {name: table for name, table in tables.items() if name in held}
    for name, table in sound.items():
        _check_results(table, held[name])
    scored = {name for name in sound if held[name].scores}
    for path in folder.glob("scores/*.csv"):
        if path.stem not in {*scored, *tables.refused}:
            raise ReportError(f"{path} has the scores of no published row")
    check_markers(found, tables)
    contents = declared(found, sound, held) | overviews(found, sound, held, folder)
    difference = "".join(
        _difference(page, content, filled(page, content, contents))
        for page, content in pages.items()
    )
    for name in marked:
        if name in tables.refused and not difference:
            raise ReportError(tables.refused[name])
    return difference


def _difference(page: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        fromfile=page,
        tofile=f"{page} as results/ has it",
    )
    return "".join(lines)


def _check_results(table: Table, results: stored.TableResults) -> None:
    check_rows(table, results.rows)
    found = [cell_of(table, row) for row in results.rows]
    if found != [cell for cell in table.cells() if cell in found]:
        raise ReportError(
            f"results/{table.name}.csv has its rows in another order than"
            f" conf/experiment/{table.name}.yaml, or twice: {', '.join(map(str, found))}"
        )
    means = stored.averages_of(table, results.rows)
    for metric, average in results.averages.items():
        if metric not in means or means[metric].value != average.value:
            raise ReportError(
                f"results/averages.csv: the {metric} of {table.name} is not its rows' mean"
            )
    if table.headline:
        stored.backed_scores(table.name, results)
