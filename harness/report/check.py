"""Whether README, results and schema agree; reads files alone, in a fraction of a second."""

from __future__ import annotations

import difflib
from pathlib import Path

from harness.report.publish import check_row, markdowns
from harness.report.readme import check_markers, fill, markers, set_aside
from harness.report.results import TableResults, averages_of, read_results
from harness.report.scores import backed_scores
from harness.report.select import cell_of
from harness.report.table import ReportError, Table, read_tables, reading


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
        A marker, a file or a schema is wrong, or the results contradict one another.
    """
    tables = read_tables(root / "conf")
    with reading(root / "README.md") as file:
        readme = file.read()
    set_aside(tables, readme, root / "results")
    held = {name: read_results(root / "results", name) for name in tables}
    for name, results in held.items():
        _check_order(tables[name], results)
        _check_averages(tables[name], results)
        if tables[name].headline:
            backed_scores(name, results.rows, results.scores)
    scored = {name for name, results in held.items() if results.scores}
    for path in (root / "results").glob("scores/*.csv"):
        if path.stem not in {*scored, *tables.refused}:
            raise ReportError(f"{path} has the scores of no published row")
    check_markers(readme, tables, known={*tables, *tables.refused})
    filled = fill(readme, markdowns(tables, held))
    lines = difflib.unified_diff(
        readme.splitlines(keepends=True),
        filled.splitlines(keepends=True),
        fromfile="README.md",
        tofile="README.md as results/ has it",
    )
    difference = "".join(lines)
    for name in markers(readme):
        if name in tables.refused and not difference:
            raise ReportError(tables.refused[name])
    return difference


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
