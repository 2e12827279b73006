"""The report as one HTML file: no network, opens from disk, on a desk and on a phone."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harness.charts import histogram, learning_curve, roc_chart
from harness.metrics.registry import METRICS
from harness.record import ImageScore
from harness.report.caption import caption
from harness.report.declaration import ReportError, Table, reading
from harness.report.formats import code, spans
from harness.report.grid import MILLISECONDS, TIMED, Grid, limits, number, of_type, wide_grid_of
from harness.report.rows import INTERVAL_METRIC, Row, backed_scores
from harness.report.selection import machine_words
from harness.report.stored import TableResults
from harness.system.files import read_regular
from harness.system.terminal import from_cell, in_markup

TITLE = "DFKDE benchmark"


def build_page(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], *, pictures: Path
) -> str:
    """Build the whole report as one HTML text."""
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
    return files("harness.report").joinpath(name).read_text(encoding="utf-8")


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


_NUMBER = re.compile(r"^[+-]?\d+(\.\d+)?")


def table_html(grid: Grid, caption: str) -> str:
    """Render a grid; the average stays below, however the rows are sorted."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{in_markup(title)}</button></th>'
        for title in grid.header
    )
    body = "".join(_row(line) for line in grid.body)
    foot = f"<tfoot>{_row(grid.average)}</tfoot>" if grid.average else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"{foot}</table></div>"
        f'<p class="caption">{inline(caption)}</p>'
    )


def inline(markdown: str) -> str:
    """Turn a caption's code spans into elements and escape the rest.

    Examples
    --------
    >>> inline("a < b, `x`")
    'a &lt; b, <code>x</code>'
    """
    return "".join(
        f"<code>{in_markup(words)}</code>" if code else in_markup(words)
        for code, words in spans(markdown)
    )


def _row(line: Sequence[str]) -> str:
    cells = "".join(f"<td{_key(cell)}>{in_markup(cell)}</td>" for cell in line[1:])
    return f'<tr><th scope="row">{in_markup(line[0])}</th>{cells}</tr>'


def _key(cell: str) -> str:
    """Give a cell the number it is sorted by; cells without one go last."""
    number = _NUMBER.match(cell)
    return f' data-key="{number[0]}"' if number else ""


CHANCE = 0.5


def auroc_bars(rows: Sequence[Row]) -> str:
    """Draw a bar from chance to the AUROC of each category, and its interval as a line.

    The axis runs from 0.5, or from below the smallest limit, to 1.
    """
    known = [row for row in rows if INTERVAL_METRIC in row.metric]
    smallest = min((_low(row) for row in known), default=CHANCE)
    start = min(CHANCE, int(smallest * 10) / 10)
    lines = "".join(_bar(row, start) for row in known)
    ticks = "".join(
        f'<span style="left:{_share(tick / 10, start)}%">{tick / 10:g}</span>'
        for tick in range(round(start * 10), 11)
    )
    return (
        f'<div class="bars" role="list">{lines}</div>'
        f'<div class="bars ticks" aria-hidden="true"><i></i><div class="track">{ticks}</div></div>'
    )


def _low(row: Row) -> float:
    return min(row.metric[INTERVAL_METRIC], row.low.get(INTERVAL_METRIC, 1.0))


def _share(value: float, start: float) -> float:
    return round(100 * (value - start) / (1 - start), 2)


def _bar(row: Row, start: float) -> str:
    value = row.metric[INTERVAL_METRIC]
    low, high = row.low.get(INTERVAL_METRIC), row.high.get(INTERVAL_METRIC)
    left, right = sorted((_share(value, start), _share(CHANCE, start)))
    bar = f'<b style="left:{left}%;width:{right - left:.2f}%"></b>'
    if low is not None and high is not None:
        left, width = _share(low, start), _share(high, start) - _share(low, start)
        bar += f'<u style="left:{left}%;width:{width:.2f}%"></u>'
    text = f"{number(value)} ({limits(low, high)})"
    return (
        f'<div role="listitem"><i>{in_markup(row.category)}</i>'
        f'<div class="track" title="{text}">{bar}</div><span>{number(value)}</span></div>'
    )


INDEX = "index.csv"
COLUMNS = ("kind", "image", "defect_type", "score", "note", "picture", "map", "mask")
# Of the gallery's own folder: what an index names is laid into the page.
_FILE = re.compile(r"\w+\.(webp|png)", re.ASCII)
_TITLES = {
    "false_alarm": "Normal images with the highest scores",
    "miss": "Anomalous images with the lowest scores",
    "best_map": "Best localisations",
    "worst_map": "Worst localisations",
}


@dataclass(frozen=True)
class Picture:
    """One entry of a category's gallery."""

    kind: str
    image: str
    defect_type: str
    score: float
    note: str
    files: dict[str, Path]


def read_gallery(folder: Path) -> list[Picture]:
    """Read the gallery of one category; one that was not made is empty."""
    index = folder / INDEX
    if not index.exists():
        return []
    with reading(index, errors="surrogatepass", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ReportError(f"{index} has not the columns {', '.join(COLUMNS)}")
        return [_picture(line, folder) for line in reader]


def _picture(line: dict[str, str], folder: Path) -> Picture:
    cells = {name: from_cell(cell) for name, cell in line.items()}
    files = {name: cells[name] for name in ("picture", "map", "mask") if cells[name]}
    for file in files.values():
        if not _FILE.fullmatch(file):
            raise ReportError(
                f"{folder / INDEX} must name pictures such as 00_map.webp, got {file!r}"
            )
        if not (folder / file).is_file():
            raise ReportError(f"{folder / file} is missing, or no regular file")
    return Picture(
        kind=cells["kind"],
        image=cells["image"],
        defect_type=cells["defect_type"],
        score=float(cells["score"]),
        note=cells["note"],
        files={name: folder / file for name, file in files.items()},
    )


def gallery_html(pictures: Sequence[Picture]) -> str:
    """Lay the pictures out by kind, embedded in the page."""
    if not pictures:
        return ""
    parts = ['<p class="caption">Image, anomaly map on its own scale, ground truth mask.</p>']
    for kind, title in _TITLES.items():
        chosen = [picture for picture in pictures if picture.kind == kind]
        if chosen:
            cards = "".join(map(_card, chosen))
            parts.append(f'<h5>{title}</h5><div class="cards">{cards}</div>')
    return "".join(parts)


def _card(picture: Picture) -> str:
    images = "".join(_embedded(name, path, picture) for name, path in picture.files.items())
    note = f" · {in_markup(picture.note)}" if picture.note else ""
    return (
        f'<figure><div class="row">{images}</div><figcaption>{in_markup(picture.image)}'
        f"<br>score {picture.score:.4g}{note}</figcaption></figure>"
    )


def _embedded(name: str, path: Path, picture: Picture) -> str:
    kind = {"picture": "image", "map": "anomaly map", "mask": "ground truth mask"}[name]
    data = base64.b64encode(read_regular(path)).decode()
    suffix = path.suffix.removeprefix(".")
    return (
        f'<img src="data:image/{suffix};base64,{data}" width="160" height="160"'
        f' alt="{in_markup(f"{kind} of {picture.image}")}">'
    )
