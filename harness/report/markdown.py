"""A table as Markdown, and how names are written in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.report.grid import Grid
from harness.system.terminal import shown

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

    Examples
    --------
    >>> print(text("metal_nut"), text("a|b <i> `c`"))
    metal_nut a\|b \<i\> \`c\`
    """
    escaped = _SPECIAL.sub(r"\\\g<0>", shown(words).strip())
    return _NUMBERED.sub(r"\1\\\2", escaped)


def code(words: str) -> str:
    r"""Write words as code, in which nothing can be escaped: a backtick is written `\x60`.

    Examples
    --------
    >>> print(code("a`b"))
    `a\x60b`
    """
    return f"`{shown(words).replace('`', chr(92) + 'x60') or ' '}`"


def spans(markdown: str) -> Iterator[tuple[bool, str]]:
    r"""Read what `text` and `code` wrote, for other formats.

    Yields
    ------
    tuple of bool and str
        Whether it is code, and the words.

    Examples
    --------
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
