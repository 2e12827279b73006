"""The pages with results, and their markers: `<!-- KIND: NAME -->` ... `<!-- /KIND -->`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.report.table import ReportError, reading

PAGES = ("README.md", "docs/results.md")
"""Relative to the checkout; the first must be there, and a marker stands in one of them."""

_KINDS = {
    "table": "no conf/experiment",
    "results": "no dataset of a table",
    "status": "not `all`",
}
"""What a marker may be of, and what is told of a name that none is."""

_OPEN = re.compile(rf"^<!-- ({'|'.join(_KINDS)}): (\S+) -->$", re.MULTILINE)
# On a line of its own: within one it is the text of a table.
_CLOSE = re.compile(rf"^<!-- /({'|'.join(_KINDS)}) -->$", re.MULTILINE)


class Marker(NamedTuple):
    """A place of a page that the results fill.

    Attributes
    ----------
    kind : str
        `table` for a declared table with its intervals and its caption, `results` for the overview
        of a dataset, `status` for how far each dataset is.
    name : str
        The table or the dataset; `all` for the status.
    """

    kind: str
    name: str


def read_pages(root: Path) -> dict[str, str]:
    """Read the text of each page that a checkout has, by its path."""
    first, *others = PAGES
    pages = {}
    for name in (first, *(other for other in others if (root / other).exists())):
        with reading(root / name) as file:
            pages[name] = file.read()
    return pages


def markers(pages: Mapping[str, str]) -> list[Marker]:
    """List the markers of all pages, in order."""
    return [Marker(*match.groups()) for text in pages.values() for match in _OPEN.finditer(text)]


def fill(pages: Mapping[str, str], contents: Mapping[Marker, str]) -> dict[str, str]:
    r"""Put each content between its markers; all other text stays as it is.

    Parameters
    ----------
    pages : mapping of str to str
        The texts, by path.
    contents : mapping of Marker to str
        What is to stand there; what stands at other markers stays.

    Raises
    ------
    ReportError
        A marker is doubled or unclosed.

    Examples
    --------
    >>> pages = {"README.md": "# Title\n<!-- table: demo -->\nold\n<!-- /table -->\nmore\n"}
    >>> print(fill(pages, {Marker("table", "demo"): "| new |\n"})["README.md"], end="")
    # Title
    <!-- table: demo -->
    <BLANKLINE>
    | new |
    <BLANKLINE>
    <!-- /table -->
    more
    """
    _check_doubled(pages, contents)
    return {page: "".join(_filled(page, text, contents)) for page, text in pages.items()}


def _filled(page: str, text: str, contents: Mapping[Marker, str]) -> Iterator[str]:
    position = 0
    for match in _OPEN.finditer(text):
        marker = Marker(*match.groups())
        if marker in contents:
            yield f"{text[position : match.end()]}\n\n{contents[marker]}\n"
            position = _closing(page, text, match)
    yield text[position:]


def _closing(page: str, text: str, opening: re.Match[str]) -> int:
    """Find where the closing marker starts that belongs to an opening one."""
    kind, name = opening.groups()
    close = _CLOSE.search(text, opening.end())
    following = _OPEN.search(text, opening.end())
    if not close or close[1] != kind or (following and following.start() < close.start()):
        raise ReportError(f"{page}: the marker of {kind} {name} is not closed by <!-- /{kind} -->")
    return close.start()


def check_markers(pages: Mapping[str, str], *, known: Collection[Marker]) -> None:
    """Refuse pages with a marker twice, a marker of something unknown, or an end without one."""
    found = markers(pages)
    _check_doubled(pages, found)
    for marker in found:
        if marker not in known:
            page = _where(pages, marker)
            raise ReportError(
                f"{page} has a marker for what is {_KINDS[marker.kind]}: {marker.name}"
            )
    for page, text in pages.items():
        opened = Counter(match[1] for match in _OPEN.finditer(text))
        for kind, closed in Counter(match[1] for match in _CLOSE.finditer(text)).items():
            if closed > opened[kind]:
                raise ReportError(f"{page} has a <!-- /{kind} --> that closes no {kind}")


def _check_doubled(pages: Mapping[str, str], wanted: Iterable[Marker]) -> None:
    count = Counter(markers(pages))
    for marker in wanted:
        if count[marker] > 1:
            kind, name = marker
            raise ReportError(f"{_where(pages, marker)}: more than one marker for {kind} {name}")


def _where(pages: Mapping[str, str], marker: Marker) -> str:
    """Name the pages with a marker."""
    return " and ".join(page for page, text in pages.items() if marker in markers({page: text}))
