"""What a page shows first: how far each dataset is, and its backbones beside a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.metrics.registry import HEADLINE, METRICS
from harness.report.caption import claim
from harness.report.grid import ABSENT, average_cell, metric_cell, number, shown_metrics
from harness.report.markdown import code, text
from harness.report.published import AVERAGE, METHOD, Source
from harness.report.readme import Marker
from harness.report.results import TableResults
from harness.report.table import Table
from harness.system.terminal import in_markup

STATUS = Marker("status", "all")


@dataclass(frozen=True)
class Group:
    """Some columns of an overview: those of one table, or of one reference.

    Attributes
    ----------
    label : str
        What stands above them.
    metrics : tuple of str
        A column each.
    cells : dict of str to tuple of str
        The lines that it has, by category.
    average : tuple of str
        The last line.
    told : str
        What the caption says of it, in Markdown.
    """

    label: str
    metrics: tuple[str, ...]
    cells: dict[str, tuple[str, ...]]
    average: tuple[str, ...]
    told: str


def overviews(
    found: Iterable[Marker],
    tables: Mapping[str, Table],
    held: Mapping[str, TableResults],
    sources: Callable[[], Sequence[Source]],
) -> dict[Marker, str]:
    """Write what stands at the markers of the kinds `results` and `status`.

    Parameters
    ----------
    found : iterable of Marker
        The markers of all pages. An overview is of the tables that have one, in that order.
    tables : mapping of str to Table
        The declared tables whose rows are as they declare.
    held : mapping of str to TableResults
        What `results/` holds, also of other tables. Where it holds rows of a table with a marker
        that is not among `tables`, the overview of their dataset is not made.
    sources : callable
        Reads the published numbers, if an overview is to be made.
    """
    found = list(found)
    marked = [marker.name for marker in found if marker.kind == "table"]
    shown = [tables[name] for name in marked if name in tables and tables[name].headline]
    withheld = [held[name].rows for name in marked if name in held and name not in tables]
    stale = {row.dataset for rows in withheld for row in rows}
    datasets = {table.choice("dataset") for table in tables.values()} - stale
    made = {
        marker: overview(marker.name, _of(marker.name, shown), held, sources())
        for marker in found
        if marker.kind == "results" and marker.name in datasets
    }
    if STATUS in found and not stale:
        made[STATUS] = status(shown, held)
    return made


def overview(
    dataset: str,
    tables: Sequence[Table],
    held: Mapping[str, TableResults],
    sources: Sequence[Source],
) -> str:
    """Lay out a dataset: a group of columns for each table with a row, and one for a reference.

    Categories that none of them has are left out.

    Parameters
    ----------
    dataset : str
        The dataset's name.
    tables : sequence of Table
        Its tables with one job per category.
    held : mapping of str to TableResults
        Their rows and averages.
    sources : sequence of Source
        All published numbers.
    """
    labels = _labels(tables)
    groups = [_ours(t, held[t.name], labels[t.name]) for t in tables if held[t.name].rows]
    groups += [_theirs(source, dataset) for source in [reference(dataset, sources)] if source]
    if not groups:
        commands = " or ".join(code(table.command) for table in tables)
        return f"None yet: {commands}.\n" if tables else "None yet.\n"
    named = [
        *(c for table in tables for c in table.categories),
        *(c for g in groups for c in g.cells),
    ]
    categories = [c for c in dict.fromkeys(named) if any(c in group.cells for group in groups)]
    told = " ".join(f"{group.told}." for group in groups)
    return f"{_html(groups, categories)}\n{told}\n"


def reference(dataset: str, sources: Sequence[Source]) -> Source | None:
    """Choose DFKDE's source with the most numbers that an overview shows; of several, the first."""

    def shown(source: Source) -> int:
        return sum(key[0] == dataset and key[2] in HEADLINE for key in source.values)

    best = max((s for s in sources if s.method == METHOD), key=shown, default=None)
    return best if best and shown(best) else None


def status(tables: Sequence[Table], held: Mapping[str, TableResults]) -> str:
    """Tell in a line for each dataset how many categories have a result; those with one first."""
    lines = []
    for dataset in dict.fromkeys(table.choice("dataset") for table in tables):
        own = _of(dataset, tables)
        parts = [_count(t, held[t.name], _labels(own)[t.name]) for t in own if held[t.name].rows]
        lines.append((not parts, f"- {text(own[0].title)}: {'; '.join(parts) or 'none yet'}\n"))
    return "".join(line for _, line in sorted(lines, key=lambda line: line[0]))


def _count(table: Table, results: TableResults, label: str) -> str:
    finished = sum(row.finished for row in results.rows)
    failed = len(results.rows) - finished
    lost = f" ({failed} failed)" if failed else ""
    return f"{finished}/{len(table.categories)} categories with {code(label)}{lost}"


def _of(dataset: str, tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.choice("dataset") == dataset]


def _labels(tables: Iterable[Table]) -> dict[str, str]:
    """Name tables by their backbones, or as they are declared where two have the same."""
    labels = {table.name: table.choice("backbone") for table in tables}
    several = len(set(labels.values())) < len(labels)
    return {name: name for name in labels} if several else labels


def _ours(table: Table, results: TableResults, label: str) -> Group:
    metrics, count = shown_metrics(results.rows), len(table.categories)
    cells = {row.category: tuple(metric_cell(row, m) for m in metrics) for row in results.rows}
    average = tuple(average_cell(metric, results, categories=count) for metric in metrics)
    return Group(label, metrics, cells, average, claim(table))


def _theirs(source: Source, dataset: str) -> Group:
    numbers = source.values.items()
    values = {key[1:]: number(float(value)) for key, value in numbers if key[0] == dataset}
    metrics = tuple(m for m in HEADLINE if any(metric == m for _, metric in values))
    cells = {
        category: tuple(values.get((category, metric), ABSENT) for metric in metrics)
        for category, metric in values
        if metric in metrics
    }
    average = cells.pop(AVERAGE, (ABSENT,) * len(metrics))
    told = f"{text(source.label)}: published numbers, not run here ({text(source.reference)})"
    return Group(source.label, metrics, cells, average, told)


def _html(groups: Sequence[Group], categories: Sequence[str]) -> str:
    """Write the lines as HTML, for Markdown has no groups of columns; no line of it is empty."""
    names = "".join(
        f'<th colspan="{len(group.metrics)}" scope="colgroup">{in_markup(group.label)}</th>'
        for group in groups
    )
    titles = "".join(
        f'<th scope="col">{in_markup(METRICS[metric].display)}</th>'
        for group in groups
        for metric in group.metrics
    )
    first = '<th rowspan="2" scope="col" align="left">Category</th>'
    rows = [
        _row(
            in_markup(category), [g.cells.get(category, (ABSENT,) * len(g.metrics)) for g in groups]
        )
        for category in categories
    ]
    rows += [_row(f"<b>{AVERAGE}</b>", [group.average for group in groups])]
    body = "".join(rows)
    return (
        f"<table><thead>\n<tr>{first}{names}</tr>\n<tr>{titles}</tr>\n</thead><tbody>\n"
        f"{body}</tbody></table>\n"
    )


def _row(title: str, groups: Iterable[tuple[str, ...]]) -> str:
    cells = "".join(f'<td align="right">{in_markup(c)}</td>' for group in groups for c in group)
    return f"<tr><td>{title}</td>{cells}</tr>\n"
