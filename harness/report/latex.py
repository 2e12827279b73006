"""A table as LaTeX, for the package booktabs."""

from __future__ import annotations

import re

from harness.report.grid import Grid
from harness.report.markdown import spans
from harness.system.terminal import shown

_SPECIAL = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # After the end of a line they would begin an argument.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "–": "--", "±": r"$\pm$", "·": r"$\cdot$", "−": r"$-$",
}  # fmt: skip
# A label is never shown, and takes no escapes.
_NO_LABEL = re.compile(r"[^\w.:-]", re.ASCII)


def latex(name: str, grid: Grid, caption: str) -> str:
    """Render a grid as a floating table, labelled `tab:NAME`.

    Parameters
    ----------
    name : str
        The table's name.
    grid : Grid
        Its cells.
    caption : str
        Its caption in Markdown, of which code in backticks is understood.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_text(caption)}}}",
        rf"\label{{tab:{_NO_LABEL.sub('-', name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
        r"\toprule",
        _line(grid.header),
        r"\midrule",
        *(_line(line) for line in grid.body),
        *([r"\midrule", _line(grid.average)] if grid.average else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Escape what LaTeX takes for a command.

    Examples
    --------
    >>> escape("metal_nut: 95 %")
    'metal\\_nut: 95 \\%'
    """
    return "".join(_SPECIAL.get(character, character) for character in shown(text))


def _line(cells: tuple[str, ...]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def _text(markdown: str) -> str:
    """Turn a caption's code spans into typewriter, and escape the rest."""
    return "".join(
        rf"\texttt{{{escape(words)}}}" if code else escape(words) for code, words in spans(markdown)
    )
