"""A table as Markdown and as LaTeX, the templates of HTML, and how names are written in each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from harness.report.layout import Grid
from harness.system.terminal import in_markup, shown, templates

# What may begin markup. An underscore within a word is none, and stays: `metal_nut`.
_SPECIAL = re.compile(r"[\\`*<>\[\]&~$#|]|(?<![^\W_])_|_(?![^\W_])|^[-+=]")
_NUMBERED = re.compile(r"^(\d+)([.)])")
_SPAN = re.compile(r"`(?P<code>[^`]*)`|\\(?P<escaped>[!-/:-@\[-`{-~])|(?P<plain>.)", re.DOTALL)


def markdown(grid: Grid, caption: str) -> str:
    """Render a grid: the table, an empty line, the caption.

    The header and the first column are names; the other cells, and the caption, are Markdown.
    """
    rule = ("---", *("---:" for _ in grid.header[1:]))
    body = ((text(name), *cells) for name, *cells in grid.body)
    average = [(f"**{name}**", *cells) for name, *cells in filter(None, [grid.average])]
    lines = [tuple(map(text, grid.header)), rule, *body, *average]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"


def text(words: str) -> str:
    r"""Write words so that Markdown shows them as they are, in a cell too.

    >>> print(text("metal_nut"), text("a|b <i> `c`"))
    metal_nut a\|b \<i\> \`c\`
    """
    escaped = _SPECIAL.sub(r"\\\g<0>", shown(words).strip())
    return _NUMBERED.sub(r"\1\\\2", escaped)


def code(words: str) -> str:
    r"""Write words as code, in which nothing can be escaped: a backtick is written `\x60`.

    >>> print(code("a`b"))
    `a\x60b`
    """
    return f"`{shown(words).replace('`', chr(92) + 'x60') or ' '}`"


def spans(markdown: str) -> Iterator[tuple[bool, str]]:
    r"""Read what `text` and `code` wrote, for other formats.

    >>> list(spans(text("a|b") + " " + code("c|d")))
    [(False, 'a|b '), (True, 'c|d')]
    """
    plain = ""
    for match in _SPAN.finditer(markdown):
        if match["code"] is None:
            plain += match["escaped"] or match["plain"]
        else:
            yield from [(False, plain)] if plain else []
            yield True, match["code"]
            plain = ""
    yield from [(False, plain)] if plain else []


_LATEX = {
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
    """Render a grid as a floating table, labelled `tab:NAME`."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_caption(caption)}}}",
        rf"\label{{tab:{_NO_LABEL.sub('-', name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
        r"\toprule",
        _latex_line(grid.header),
        r"\midrule",
        *(_latex_line(line) for line in grid.body),
        *([r"\midrule", _latex_line(grid.average)] if grid.average else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Escape what LaTeX takes for a command.

    >>> escape("metal_nut: 95 %")
    'metal\\_nut: 95 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in shown(text))


def _latex_line(cells: tuple[str, ...]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def _latex_caption(markdown: str) -> str:
    """Turn a caption's code spans into typewriter, and escape the rest."""
    return "".join(
        rf"\texttt{{{escape(words)}}}" if code else escape(words) for code, words in spans(markdown)
    )


def inline(markdown: str) -> Markup:
    """Turn a caption's code spans into elements and escape the rest.

    >>> print(inline("a < b, `x`"))
    a &lt; b, <code>x</code>
    """
    return Markup("").join(
        Markup("<code>{}</code>" if code else "{}").format(Markup(in_markup(words)))  # noqa: S704
        for code, words in spans(markdown)
    )


def leading(cell: str) -> str:
    """Return the number that a cell of a page is sorted by; cells without one go last."""
    number = re.match(r"[+-]?\d+(\.\d+)?", cell)
    return number[0] if number else ""


TEMPLATES = templates(Path(__file__).parent)
TEMPLATES.filters |= {"inline": inline, "leading": leading}
