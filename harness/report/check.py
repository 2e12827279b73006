"""Whether pages, results and schema agree; reads files alone, in a fraction of a second."""

from __future__ import annotations

import difflib
from pathlib import Path

from harness.report.overview import overviews
from harness.report.publish import check_row, known_markers, markdowns, published_sources
from harness.report.readme import check_markers, fill, markers, read_pages
from harness.report.results import TableResults, averages_of, read_results
from harness.report.scores import backed_scores
from harness.report.select import cell_of
from harness.report.table import ReportError, Table, read_tables


def check(root: Path) -> str:
    """Compare pages and results with each other and with the schema, without any run.

    Parameters
    ----------
    root : Path
        The checkout.

    Returns
    -------
    str
        Unified diffs from the pages as they are to what the results say; empty when they agree.

    Raises
    ------
    ReportError
        A marker, a file or a schema is wrong, or the results contradict one another.
    """
    declared, folder = read_tables(root / "conf"), root / "results"
    pages = read_pages(root)
    found = markers(pages)
    marked = {marker.name for marker in found if marker.kind == "table"}
    held = {
        name: read_results(folder, name)
        for name in (*declared, *declared.refused)
        if (name in marked and name in declared) or (folder / f"{name}.csv").exists()
    }
    tables = {name: table for name, table in declared.items() if name in held}
    for name, table in tables.items():
        _check_order(table, held[name])
        _check_averages(table, held[name])
        if table.headline:
            backed_scores(name, held[name].rows, held[name].scores)
    scored = {name for name in tables if held[name].scores}
    for path in folder.glob("scores/*.csv"):
        if path.stem not in {*scored, *declared.refused}:
            raise ReportError(f"{path} has the scores of no published row")
    check_markers(pages, known=known_markers(declared, found))
    contents = markdowns(tables, held, found)
    contents |= overviews(found, tables, held, lambda: published_sources(folder))
    difference = "".join(
        _difference(page, pages[page], filled) for page, filled in fill(pages, contents).items()
    )
    for name in marked:
        if name in declared.refused and not difference:
            raise ReportError(declared.refused[name])
    return difference


def _difference(page: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        fromfile=page,
        tofile=f"{page} as results/ has it",
    )
    return "".join(lines)


def _check_order(table: Table, results: TableResults) -> None:
    for row in results.rows:
        check_row(table, row)
    found = [cell_of(table, row) for row in results.rows]
    if found != [cell for cell in table.cells() if cell in found]:
        raise ReportError(
            f"results/{table.name}.csv has its rows in another order than"
            f" conf/experiment/{table.name}.yaml, or twice: {', '.join(map(str, found))}"
        )


def _check_averages(table: Table, results: TableResults) -> None:
    found = averages_of(table, results.rows)
    for metric, average in results.averages.items():
        if metric not in found or found[metric].value != average.value:
            raise ReportError(
                f"results/averages.csv: the {metric} of {table.name} is not its rows' mean"
            )
