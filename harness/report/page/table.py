"""A table as HTML that a click or a key sorts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.report.grid import Grid
from harness.report.markdown import spans
from harness.system.terminal import in_markup

_NUMBER = re.compile(r"^[+-]?\d+(\.\d+)?")


def table_html(grid: Grid, caption: str) -> str:
    """Render a grid; the average stays below, however the rows are sorted."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{in_markup(title)}</button></th>'
        for title in grid.header
    )
    body = "".join(_row(line) for line in grid.body)
    foot = f"<tfoot>{_row(grid.average)}</tfoot>" if grid.average else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"{foot}</table></div>"
        f'<p class="caption">{inline(caption)}</p>'
    )


def inline(markdown: str) -> str:
    """Turn a caption's code spans into elements and escape the rest.

    Examples
    --------
    >>> inline("a < b, `x`")
    'a &lt; b, <code>x</code>'
    """
    return "".join(
        f"<code>{in_markup(words)}</code>" if code else in_markup(words)
        for code, words in spans(markdown)
    )


def _row(line: Sequence[str]) -> str:
    cells = "".join(f"<td{_key(cell)}>{in_markup(cell)}</td>" for cell in line[1:])
    return f'<tr><th scope="row">{in_markup(line[0])}</th>{cells}</tr>'


def _key(cell: str) -> str:
    """Give a cell the number it is sorted by; cells without one go last."""
    number = _NUMBER.match(cell)
    return f' data-key="{number[0]}"' if number else ""
