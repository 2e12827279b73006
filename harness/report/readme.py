"""The pages with results, their markers, and the overviews: `<!-- KIND: NAME -->` ..."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.metrics.registry import HEADLINE
from harness.report import layout
from harness.report.declaration import ReportError, Table, Tables, reading
from harness.report.formats import TEMPLATES, markdown
from harness.report.layout import caption, code, described, text
from harness.report.results import AVERAGE, METHOD, Source, TableResults, read_published

PAGES = ("README.md", "docs/results.md")
"""Relative to the checkout; the first must be there, and markers may be in each of them."""
SHOW = "show"
"""The kind of markers of any page, with arguments of `report show` for a name."""

_KINDS = ("table", "results", "status")
"""What a marker of `PAGES` may be of."""

# On a line of its own: within one it is the text of a table.
_KIND = "|".join((*_KINDS, SHOW))
_MARKER = re.compile(rf"^<!-- (?:({_KIND}): (.+)|/({_KIND})) -->$", re.MULTILINE)
_BLOCK = re.compile(rf"^<!-- ({_KIND}): ([^\n]+) -->$.*?^<!-- /\1 -->$", re.MULTILINE | re.DOTALL)


class Marker(NamedTuple):
    """A place of a page that the results fill; `docs/tables.md` describes the kinds."""

    kind: str
    name: str


def read_pages(root: Path) -> dict[str, str]:
    """Read the text of each page that a checkout has, by its path."""
    pages = {}
    for name in PAGES:
        if name == PAGES[0] or (root / name).exists():
            with reading(root / name) as file:
                pages[name] = file.read()
    return pages


def markers(pages: Mapping[str, str]) -> dict[Marker, str]:
    """Return the markers of results, in order, and the page of each; none may be there twice."""
    found: dict[Marker, str] = {}
    for page, content in pages.items():
        for marker in [one for one in blocks(page, content) if one.kind != SHOW]:
            if marker in found:
                where = " and ".join(dict.fromkeys((found[marker], page)))
                what = f"{marker.kind} {marker.name}"
                raise ReportError(f"{where}: more than one marker for {what}")
            found[marker] = page
    return found


def blocks(page: str, content: str) -> list[Marker]:
    """List the markers of a page, each of which must be closed before the next one."""
    found, opened = [], Marker("", "")
    for kind, name, closed in [*_MARKER.findall(content), ("", "", "")]:
        if closed != opened.kind:
            what, end = f"{opened.kind} {opened.name}", f"<!-- /{opened.kind or closed} -->"
            raise ReportError(
                f"{page}: the marker of {what} is not closed by {end}"
                if opened.kind
                else f"{page} has a {end} that closes no {closed}"
            )
        opened = Marker(kind, name)
        found += [opened] if kind else []
    return found


def filled(content: str, contents: Mapping[Marker, str]) -> str:
    r"""Put each content between its markers; all other text stays as it is.

    >>> page = "# Title\n<!-- table: demo -->\nold\n<!-- /table -->\nmore\n"
    >>> print(filled(page, {Marker("table", "demo"): "| new |\n"}), end="")
    # Title
    <!-- table: demo -->
    <BLANKLINE>
    | new |
    <BLANKLINE>
    <!-- /table -->
    more
    """

    def block(found: re.Match[str]) -> str:
        kind, name = found.groups()
        new = contents.get(Marker(kind, name))
        return found[0] if new is None else f"<!-- {kind}: {name} -->\n\n{new}\n<!-- /{kind} -->"

    return _BLOCK.sub(block, content)


def fill_shown(path: str, page: str, table: Callable[[Sequence[str]], str]) -> str:
    """Put at each `show` marker of a page the table that its arguments ask for."""
    found = [marker for marker in blocks(path, page) if marker.kind == SHOW]
    if not found:
        raise ReportError(
            f"{path} must have markers `<!-- show: KEY=VALUE -->` ... `<!-- /show -->`"
        )
    return filled(page, {marker: table(shlex.split(marker.name)) for marker in found})


def check_markers(found: Mapping[Marker, str], tables: Tables) -> None:
    """Refuse a marker of something unknown; of a refused table's dataset nothing is known."""
    known = {Marker("table", name) for name in (*tables, *tables.refused)} | {STATUS}
    known |= {Marker("results", table.choice("dataset")) for table in tables.values()}
    for marker, page in found.items():
        if marker not in known and not (tables.refused and marker.kind == "results"):
            choices = ", ".join(sorted(one.name for one in known if one.kind == marker.kind))
            what = f"marker of {marker.kind} {marker.name}"
            raise ReportError(f"{page} has a {what}; there are {choices}")


STATUS = Marker("status", "all")


class Group(NamedTuple):
    """Some columns of an overview: those of one table, or of one reference."""

    label: str
    titles: layout.Line
    cells: Mapping[str, Sequence[str]]  # by category
    average: Sequence[str]
    caption: str  # in Markdown


def contents_of(
    found: Collection[Marker],
    made: Mapping[str, Table],
    sound: Mapping[str, Table],
    held: Mapping[str, TableResults],
    results: Path,
) -> dict[Marker, str]:
    """Write what stands at the markers: of tables, those `made`; of the other kinds, all.

    An overview is of the tables that have a marker, in that order. Where one of them is not among
    `sound`, whose rows are as they declare, the overview of its dataset is not made.
    """
    marked = [marker.name for marker in found if marker.kind == "table"]
    contents = {}
    for name in (name for name in marked if name in made):
        grid, words = layout.grid_of(made[name], held[name]), caption(made[name], held[name].rows)
        contents[Marker("table", name)] = markdown(grid, words)
    withheld = [held[name].rows for name in marked if name in held and name not in sound]
    stale = {row.dataset for rows in withheld for row in rows}
    shown = [sound[name] for name in marked if name in sound and sound[name].headline]
    datasets = {table.choice("dataset") for table in sound.values()} - stale
    wanted = [marker for marker in found if marker.kind == "results" and marker.name in datasets]
    sources = read_published(results) if wanted and (results / "published.csv").exists() else []
    for marker in wanted:
        tables = [table for table in shown if table.choice("dataset") == marker.name]
        contents[marker] = overview(marker.name, tables, held, sources)
    if STATUS in found and not stale:
        contents[STATUS] = status(shown, held)
    return contents


def overview(
    dataset: str,
    tables: Sequence[Table],
    held: Mapping[str, TableResults],
    sources: Sequence[Source],
) -> str:
    """Lay out a dataset: a group of columns for each table with a row, and one for a reference.

    Categories that none of them has are left out.
    """
    labels = _labels(tables)
    groups = [_ours(t, held[t.name], labels[t.name]) for t in tables if held[t.name].rows]
    groups += [_theirs(source, dataset) for source in [reference(dataset, sources)] if source]
    if not groups:
        commands = " or ".join(code(table.command) for table in tables)
        return f"None yet: {commands}.\n" if tables else "None yet.\n"
    named = [c for table in tables for c in table.categories] + [c for g in groups for c in g.cells]
    lines = [
        (c, [cell for g in groups for cell in g.cells.get(c, [layout.ABSENT] * len(g.titles))])
        for c in dict.fromkeys(named)
        if any(c in group.cells for group in groups)
    ]
    lines.append((AVERAGE, [cell for group in groups for cell in group.average]))
    drawn = TEMPLATES.get_template("overview.html").render(groups=groups, lines=lines)
    captions = " ".join(f"{group.caption}." for group in groups)
    return f"{drawn}\n{captions}\n"


def reference(dataset: str, sources: Sequence[Source]) -> Source | None:
    """Choose DFKDE's source with the most numbers that an overview shows; of several, the first."""

    def shown(source: Source) -> int:
        return sum(key[0] == dataset and key[2] in HEADLINE for key in source.values)

    best = max((s for s in sources if s.method == METHOD), key=shown, default=None)
    return best if best and shown(best) else None


def status(tables: Sequence[Table], held: Mapping[str, TableResults]) -> str:
    """Write a line for each dataset: how many categories have a result; those with one first."""
    lines = []
    for dataset in dict.fromkeys(table.choice("dataset") for table in tables):
        those, parts = [table for table in tables if table.choice("dataset") == dataset], []
        labels = _labels(those)
        for table in those:
            rows = held[table.name].rows
            failed = sum(not row.finished for row in rows)
            count = f"{len(rows) - failed}/{len(table.categories)} categories"
            lost = f" ({failed} failed)" if failed else ""
            parts += [f"{count} with {code(labels[table.name])}{lost}"] if rows else []
        lines.append((not parts, f"- {text(those[0].title)}: {'; '.join(parts) or 'none yet'}\n"))
    return "".join(line for _, line in sorted(lines, key=lambda line: line[0]))


def _labels(tables: Iterable[Table]) -> dict[str, str]:
    """Name tables by their backbones, or as they are declared where two have the same."""
    labels = {table.name: table.choice("backbone") for table in tables}
    several = len(set(labels.values())) < len(labels)
    return {name: name for name in labels} if several else labels


def _ours(table: Table, results: TableResults, label: str) -> Group:
    pivot = layout.pivot_of(table, results.rows, layout.shown_metrics(results.rows))
    grid, run = layout.grid_of_pivot(pivot), {row.category for row in results.rows}
    cells = {category: line for category, *line in grid.body if category in run}
    return Group(label, grid.header[1:], cells, grid.average[1:], described(table))


def _theirs(source: Source, dataset: str) -> Group:
    numbers = source.values.items()
    values = {k[1:]: layout.number(float(value)) for k, value in numbers if k[0] == dataset}
    metrics = tuple(m for m in HEADLINE if any(metric == m for _, metric in values))
    named = [*(category for category, metric in values if metric in metrics), AVERAGE]
    cells = {c: [values.get((c, metric), layout.ABSENT) for metric in metrics] for c in named}
    average = cells.pop(AVERAGE)
    origin = f"{text(source.label)}: published numbers, not run here ({text(source.reference)})"
    return Group(source.label, tuple(map(layout.display, metrics)), cells, average, origin)
