"""Whether README, results and schema agree; reads files alone, in a fraction of a second."""

from __future__ import annotations

import difflib
from pathlib import Path

from harness.report.averages import complete, mean
from harness.report.publish import markdowns
from harness.report.readme import fill, markers, set_aside
from harness.report.results import TableResults, read_results
from harness.report.scores import backed_scores
from harness.report.select import axis_value
from harness.report.table import Cell, ReportError, Table, read_tables, reading


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
    filled = fill(readme, markdowns(tables, held), kept=tables.refused)
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
    found = [Cell(row.category, row.seed, axis_value(table, row.setting)) for row in results.rows]
    if found != [cell for cell in table.cells() if cell in found]:
        raise ReportError(
            f"results/{table.name}.csv has rows that conf/experiment/{table.name}.yaml"
            f" does not declare, or in another order: {', '.join(map(str, found))}"
        )


def _check_averages(table: Table, results: TableResults) -> None:
    for metric, average in results.averages.items():
        values = complete(results.rows, metric, categories=len(table.categories))
        if values is None or mean(values) != average.value:
            raise ReportError(
                f"results/averages.csv: the {metric} of {table.name} is not its rows' mean"
            )
