"""The README's markers: `<!-- table: NAME -->` ... `<!-- /table -->`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from harness.report.table import ReportError, Tables

_OPEN = re.compile(r"^<!-- table: (\S+) -->$", re.MULTILINE)
_CLOSE = "<!-- /table -->"
# On a line of its own: within one it is the text of a table.
_CLOSES = re.compile(rf"^{_CLOSE}$", re.MULTILINE)


def markers(readme: str) -> list[str]:
    """List the tables that have a marker."""
    return [match[1] for match in _OPEN.finditer(readme)]


def set_aside(
    tables: Tables, readme: str, results: Path, *, wanted: Collection[str] = ()
) -> list[str]:
    """Take out the experiments with neither a marker nor results: sweeps that no table shows.

    Parameters
    ----------
    tables : Tables
        The declared tables; those taken out are among the refused then.
    readme : str
        The README's text.
    results : Path
        The folder of results.
    wanted : collection of str
        Tables that are asked for, and stay.

    Returns
    -------
    list of str
        Their names.
    """
    shown = {*markers(readme), *wanted}
    aside = [n for n in tables if n not in shown and not (results / f"{n}.csv").exists()]
    for name in aside:
        del tables[name]
        tables.refused[name] = f"README.md has no marker for {name}"
    return aside


def fill(readme: str, tables: Mapping[str, str]) -> str:
    r"""Put each table's Markdown between its markers; all other text stays as it is.

    Parameters
    ----------
    readme : str
        The README's text.
    tables : mapping of str to str
        The Markdown of the tables, by name; what stands at other markers stays, too.

    Raises
    ------
    ReportError
        A marker is missing, doubled or unclosed.

    Examples
    --------
    >>> readme = "# Title\n<!-- table: demo -->\nold\n<!-- /table -->\nmore\n"
    >>> print(fill(readme, {"demo": "| new |\n"}), end="")
    # Title
    <!-- table: demo -->
    <BLANKLINE>
    | new |
    <BLANKLINE>
    <!-- /table -->
    more
    """
    check_markers(readme, tables)
    pieces: list[str] = []
    position = 0
    for match in _OPEN.finditer(readme):
        if match[1] not in tables:
            continue
        pieces += [readme[position : match.end()], f"\n\n{tables[match[1]]}\n"]
        position = _closing(readme, match)
    return "".join([*pieces, readme[position:]])


def _closing(readme: str, opening: re.Match[str]) -> int:
    """Find where the closing marker starts that belongs to an opening one."""
    close = _CLOSES.search(readme, opening.end())
    following = _OPEN.search(readme, opening.end())
    if close is None or (following and following.start() < close.start()):
        raise ReportError(f"README.md: the marker of table {opening[1]} is not closed by {_CLOSE}")
    return close.start()


def check_markers(
    readme: str, names: Collection[str], *, known: Collection[str] | None = None
) -> None:
    """Refuse a README in which a table has not one marker, or a marker none of the known tables."""
    found = markers(readme)
    for problem, culprits in (
        ("has more than one marker for", {name for name in names if found.count(name) > 1}),
        ("has no marker for", set(names) - set(found)),
        ("has a marker for what is no conf/experiment:", set(found) - set(known or found)),
    ):
        if culprits:
            raise ReportError(f"README.md {problem} {', '.join(sorted(culprits))}")
    if known is not None and len(_CLOSES.findall(readme)) > len(found):
        raise ReportError(f"README.md has a {_CLOSE} that closes no table")
