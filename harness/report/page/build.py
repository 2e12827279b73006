"""The page: tables, then each category's curves and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from harness.charts import histogram, learning_curve, roc_chart
from harness.metrics.registry import METRICS
from harness.record import ImageScore
from harness.report.caption import caption
from harness.report.facets import machine_words
from harness.report.grid import MILLISECONDS, TIMED, Grid, number, wide_grid_of
from harness.report.markdown import code
from harness.report.page.bars import auroc_bars
from harness.report.page.gallery import gallery_html, read_gallery
from harness.report.page.table import inline, table_html
from harness.report.pivot import of_type
from harness.report.protocol import INTERVAL_METRIC
from harness.report.results import TableResults
from harness.report.row import Row
from harness.report.scores import backed_scores
from harness.report.table import Table
from harness.system.terminal import in_markup

TITLE = "DFKDE benchmark"


def build_page(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], *, pictures: Path
) -> str:
    """Build the whole report as one HTML text.

    Parameters
    ----------
    tables, held : mapping
        Every declared table, and what `results/` holds of it.
    pictures : Path
        The folder of galleries: `TABLE/CATEGORY/index.csv`.
    """
    shown = [name for name in tables if any(row.finished for row in held[name].rows)]
    waiting = [table for name, table in tables.items() if name not in shown]
    sections = "".join(
        _section(tables[name], held[name], pictures=pictures / name) for name in shown
    )
    links = "".join(
        f'<a href="#{in_markup(name)}">{in_markup(_title(tables[name]))}</a>' for name in shown
    )
    return _TEMPLATE.format(
        title=TITLE,
        style=_asset("style.css"),
        script=_asset("script.js"),
        summary=_summary([row for name in shown for row in held[name].rows]),
        links=links,
        sections=sections + _waiting(waiting),
    )


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the tables</a>
<header><h1>{title}</h1><p>{summary}</p><nav aria-label="Tables">{links}</nav></header>
<main id="content">
{sections}</main>
<script>
{script}</script>
</body>
</html>
"""


def page_of(grid: Grid, caption: str) -> str:
    """Build a page of one table."""
    return _TEMPLATE.format(
        title=TITLE,
        style=_asset("style.css"),
        script=_asset("script.js"),
        summary="A table of tracked runs.",
        links="",
        sections=f"<section>{table_html(grid, caption)}</section>",
    )


def _asset(name: str) -> str:
    return files("harness.report.page").joinpath(name).read_text(encoding="utf-8")


def _title(table: Table) -> str:
    swept = f" · {table.axis}" if table.axis else ""
    return f"{table.title} · {table.choice('backbone')}{swept}"


def _summary(rows: Iterable[Row]) -> str:
    finished = [row for row in rows if row.finished]
    days = sorted({row.started[:10] for row in finished})
    when = "" if not days else f", {days[0]}" + (f" to {days[-1]}" if days[1:] else "")
    return f"Deep feature kernel density estimation: {len(finished)} finished runs{when}."


def _section(table: Table, results: TableResults, *, pictures: Path) -> str:
    parts = [
        f'<section id="{in_markup(table.name)}"><h2>{in_markup(_title(table))}</h2>',
        table_html(wide_grid_of(table, results), _caption(table, results)),
    ]
    if table.headline:
        parts += ["<h3>Image AUROC and 95 % interval by category</h3>", auroc_bars(results.rows)]
        parts += ["<h3>Categories</h3>"]
        scores = backed_scores(table.name, results.rows, results.scores)
        parts += [
            _category(table, row, scores[row.category], pictures=pictures / row.category)
            for row in results.rows
            if row.finished
        ]
    elif table.axis:
        parts.append(_curves(table, results.rows))
    return "".join([*parts, "</section>\n"])


def _caption(table: Table, results: TableResults) -> str:
    text = caption(table, results.rows)
    machines = dict.fromkeys(
        code(machine_words(results.environments[row.environment]["machine"]))
        for row in results.rows
        if row.finished
    )
    if not table.headline:
        return text
    return f"{text} {MILLISECONDS}: {TIMED}, on {', '.join(machines)}."


def _types(scores: Sequence[ImageScore]) -> str:
    """Tell the AUROC of the normal test images against those of each defect type."""
    images: dict[str, int] = {}
    for score in scores:
        if score.anomalous:
            images[score.defect_type] = images.get(score.defect_type, 0) + 1
    if len(images) < 2:
        return ""
    body = []
    for name, count in images.items():
        value = of_type(scores, INTERVAL_METRIC, defect_type=name)
        body.append((name, str(count), number(value) if isinstance(value, float) else value))
    title = METRICS[INTERVAL_METRIC].display
    return table_html(
        Grid(("Defect type", "Images", title), tuple(body), ()),
        f"{title} of the normal test images against those of one defect type.",
    )


def _category(table: Table, row: Row, scores: Sequence[ImageScore], *, pictures: Path) -> str:
    name = f"{table.title} {row.category}"
    value = row.metric.get(INTERVAL_METRIC)
    auroc = "" if value is None else f"<span>image AUROC {number(value)}</span>"
    trace = (
        f"run {code(row.run_id)}, data {code(row.data_fingerprint[:12])}, weights"
        f" {code(row.weights_digest[:12])}, commit {code(row.commit[:10])},"
        f" {row.n_train} training images"
    )
    return (
        f"<details><summary><b>{in_markup(row.category)}</b>{auroc}</summary>"
        f'<div class="charts"><figure>{roc_chart(name, scores).svg}<figcaption>ROC curve'
        f"</figcaption></figure><figure>{histogram(name, scores).svg}<figcaption>"
        "Images by anomaly score, normal and by defect type; the axis is logarithmic far from the"
        " normal images</figcaption>"
        f"</figure></div>{_types(scores)}{gallery_html(read_gallery(pictures))}"
        f'<p class="caption">{inline(trace)}</p></details>'
    )


def _curves(table: Table, rows: Iterable[Row]) -> str:
    points: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if INTERVAL_METRIC in row.metric:
            line = points.setdefault(row.category, {})
            line.setdefault(float(row.setting[table.axis]), []).append(row.metric[INTERVAL_METRIC])
    if not points:
        return ""
    title = f"Image AUROC of {table.title} over {table.axis}"
    chart = learning_curve(title, table.axis, points).svg
    caption = f"<figcaption>{in_markup(title)}</figcaption>"
    return f'<div class="charts"><figure>{chart}{caption}</figure></div>'


def _waiting(tables: Iterable[Table]) -> str:
    items = "".join(
        f"<li>{in_markup(_title(table))}: <code>{in_markup(table.command)}</code></li>"
        for table in tables
    )
    return f'<section id="waiting"><h2>Not run yet</h2><ul>{items}</ul></section>' if items else ""
