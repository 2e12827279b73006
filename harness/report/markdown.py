"""A table as Markdown."""

from __future__ import annotations

from harness.report.grid import Grid


def markdown(grid: Grid, caption: str) -> str:
    """Render a grid: the table, an empty line, the caption."""
    rule = ("---", *("---:" for _ in grid.header[1:]))
    average = (f"**{grid.average[0]}**", *grid.average[1:])
    lines = [grid.header, rule, *grid.body, average]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"
