"""A table as Markdown."""

from __future__ import annotations

from harness.report.grid import Grid


def markdown(grid: Grid) -> str:
    """Render a grid: the table, an empty line, the caption."""
    rule = ("---", *("---:" for _ in grid.header[1:]))
    average = tuple(f"**{cell}**" if i == 0 else cell for i, cell in enumerate(grid.average))
    lines = [grid.header, rule, *grid.body, average]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{grid.caption}\n"
