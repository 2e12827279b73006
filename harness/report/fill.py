"""Pages with tables of runs: `<!-- show: KEY=VALUE ... -->` ... `<!-- /show -->`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from harness.report.table import ReportError

_OPENS = re.compile(r"^<!-- show: .* -->$", re.MULTILINE)
_TABLE = re.compile(
    r"^(<!-- show: (.*) -->)\n(?:(?!<!-- show: ).*\n)*?(<!-- /show -->)$", re.MULTILINE
)


def fill_page(page: str, table: Callable[[Sequence[str]], str]) -> str:
    r"""Put at each marker the table that its arguments ask for; all other text stays as it is.

    Parameters
    ----------
    page : str
        The page's text.
    table : callable
        Returns the table, as Markdown, of the arguments of `report show`.

    Raises
    ------
    ReportError
        There is no marker, or one is not closed, or as `table`.

    Examples
    --------
    >>> page = "# Title\n<!-- show: model=knn -->\nold\n<!-- /show -->\nmore\n"
    >>> print(fill_page(page, lambda arguments: f"| {arguments[0]} |\n"), end="")
    # Title
    <!-- show: model=knn -->
    <BLANKLINE>
    | model=knn |
    <BLANKLINE>
    <!-- /show -->
    more
    """
    opened, closed = len(_OPENS.findall(page)), len(_TABLE.findall(page))
    if not opened or opened != closed:
        raise ReportError(
            f"a page must have markers `<!-- show: KEY=VALUE -->`, each with `<!-- /show -->`"
            f" behind it; it has {opened}, {closed} of them closed"
        )
    return _TABLE.sub(lambda one: f"{one[1]}\n\n{table(shlex.split(one[2]))}\n{one[3]}", page)
