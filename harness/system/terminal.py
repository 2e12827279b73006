"""Text from outside made safe to show: names of files, messages of libraries, tags of a store.

It may hold what a terminal, a browser or a spreadsheet obeys. Here is one rule for each of them;
those of Markdown and LaTeX are in `harness.report`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING
from unicodedata import normalize

from harness.system.secrets import masked

if TYPE_CHECKING:
    from jinja2 import Environment

# Also as a full-width character, and behind spaces: programs differ in what they forgive.
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n＝＋－＠]")
_SPECIAL = re.compile('[",\r\n;\t]')
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?(e[+-]?\d+)?|inf|nan)", re.ASCII)


def shown(text: str) -> str:
    r"""Write a text in one line of characters that can be seen: the others as Python escapes them.

    So neither a control character nor one that turns the direction of writing reaches a terminal,
    and the line can be encoded.

    >>> print(shown("größe"), shown("a\nb\x1b[2J"))
    größe a\nb\x1b[2J
    """
    text = masked(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    r"""Return the error's class and message in one line.

    Examples
    --------
    >>> one_line(ValueError("no such\nfile"))
    'ValueError: no such file'
    """
    return shown(" ".join(f"{type(error).__name__}: {error}".split()))


def writable(text: str, stream: IO[str]) -> str:
    r"""Write a text as `shown`; what the stream's encoding lacks is escaped as well.

    >>> import io
    >>> print(writable("größe · 日", io.TextIOWrapper(io.BytesIO(), encoding="latin-1")))
    größe · \u65e5
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown(text).encode(encoding, "backslashreplace").decode(encoding)


def alike(name: str, others: Iterable[str]) -> str:
    r"""Return which other name looks the same and is not, for a message; empty where none does.

    Two names look the same if they are one in Unicode's compatible form (NFKC).

    >>> print("no folder 'bär'" + alike("bär", ["a", "b", "bär"]))
    no folder 'bär' (which is 'bär', and not 'bär')
    """
    for other in others:
        if other != name and normalize("NFKC", other) == normalize("NFKC", name):
            return f" (which is {name!a}, and not {other!a})"
    return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the known word most like another, if one is.

    >>> nearest("mvtech", ["btad", "mvtec"]), nearest("x", ["btad", "mvtec"])
    ("; did you mean 'mvtec'?", '.')
    """
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "."


def say(*lines: str, error: bool = False) -> None:
    """Print each argument as one line, as `writable`; with `error`, on standard error."""
    stream = sys.stderr if error else sys.stdout
    for line in lines:
        print(writable(line, stream), file=stream, flush=True)


class LineFormatter(logging.Formatter):
    """Formats a record of a log as one line, and each line of a traceback, as `shown`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Format the message."""
        return shown(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Format the message and the traceback, which another formatter may have formatted."""
        return "\n".join(map(shown, super().format(record).split("\n")))


def in_markup(text: str) -> str:
    """Write a text for XML, SVG and HTML, between tags and between quotes.

    XML forbids most of what `shown` escapes, in whatever way it is written.

    >>> in_markup("a <b> & 'c'")
    'a &lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return escape(shown(text))


def templates(folder: Path) -> Environment:
    """Return the Jinja templates of a folder, which write every text as `in_markup` does."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def escaped(value: object) -> object:
        harmless = isinstance(value, (Markup, int, float))
        return value if harmless else Markup(in_markup(str(value)))  # noqa: S704

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        finalize=escaped,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may run the text of a cell; a number is none."""
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def to_cell(text: str) -> str:
    """Write a text for a cell of a CSV file, of which no spreadsheet makes a formula.

    >>> to_cell("=1+1"), to_cell("-0.5"), to_cell("a=1")
    ("'=1+1", '-0.5', 'a=1')
    """
    return f"'{text}" if is_formula(text) else text


def from_cell(cell: str) -> str:
    """Read what `to_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_line(cells: Iterable[str]) -> str:
    r"""Write a line of a CSV file, with the ends of lines of RFC 4180.

    As `csv.writer` does, which does not quote what programs split at in other countries.

    >>> csv_line(["a", "b;=1", 'c "d", e'])
    'a,"b;=1","c ""d"", e"\r\n'
    """
    return ",".join(map(_quoted, cells)) + "\r\n"


def _quoted(cell: str) -> str:
    return '"{}"'.format(cell.replace('"', '""')) if _SPECIAL.search(cell) else cell
