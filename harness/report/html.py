"""The report as one HTML file: no network, opens from disk, on a desk and on a phone."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from harness.charts import histogram, learning_curve, roc_chart
from harness.record import ImageScore
from harness.report.caption import caption
from harness.report.declaration import INTERVAL_METRIC, ReportError, Table, read_csv
from harness.report.facets import machine_words
from harness.report.formats import code, spans
from harness.report.grid import (
    TIMES,
    Grid,
    display,
    grid_of,
    limits,
    number,
    of_type,
    timed,
)
from harness.report.rows import Row
from harness.report.stored import TableResults, backed_scores
from harness.system.files import read_regular
from harness.system.terminal import in_markup

TITLE = "DFKDE benchmark"
CHANCE = 0.5
INDEX = "index.csv"
COLUMNS = ("kind", "image", "defect_type", "score", "note", "picture", "map", "mask")
_MORE = ("image_average_precision", *TIMES)
_NUMBER = re.compile(r"^[+-]?\d+(\.\d+)?")
# Of the gallery's own folder: what an index names is laid into the page.
_FILE = re.compile(r"\w+\.(webp|png)", re.ASCII)
_TITLES = {
    "false_alarm": "Normal images with the highest scores",
    "miss": "Anomalous images with the lowest scores",
    "best_map": "Best localisations",
    "worst_map": "Worst localisations",
}
_KINDS = {"picture": "image", "map": "anomaly map", "mask": "ground truth mask"}


def build_page(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], *, pictures: Path
) -> str:
    """Build the whole report, with the galleries of a folder: `TABLE/CATEGORY/index.csv`."""
    shown = [name for name in tables if any(row.finished for row in held[name].rows)]
    rows = [row for name in shown for row in held[name].rows if row.finished]
    days = sorted({row.started[:10] for row in rows})
    when = f", {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    sections = [_section(tables[n], held[n], pictures=pictures / n) for n in shown]
    waiting = [table for name, table in tables.items() if name not in shown]
    return _page(
        f"Deep feature kernel density estimation: {len(rows)} finished runs{when}.",
        "".join([*sections, _waiting(waiting)]),
        links="".join(
            f'<a href="#{in_markup(name)}">{in_markup(_title(tables[name]))}</a>' for name in shown
        ),
    )


def page_of(grid: Grid, caption: str) -> str:
    """Build a page of one table."""
    return _page("A table of tracked runs.", f"<section>{table_html(grid, caption)}</section>")


def _page(summary: str, sections: str, *, links: str = "") -> str:
    page, style, script = (
        files("harness.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "style.css", "script.js")
    )
    return page.format(
        title=TITLE, style=style, script=script, summary=summary, links=links, sections=sections
    )


def _title(table: Table) -> str:
    swept = f" · {table.axis}" if table.axis else ""
    return f"{table.title} · {', '.join(table.choices('backbone'))}{swept}"


def _section(table: Table, results: TableResults, *, pictures: Path) -> str:
    parts = [
        f'<section id="{in_markup(table.name)}"><h2>{in_markup(_title(table))}</h2>',
        table_html(grid_of(table, results, more=_MORE), _caption(table, results)),
    ]
    if table.headline:
        parts += ["<h3>Image AUROC and 95 % interval by category</h3>", auroc_bars(results.rows)]
        parts += ["<h3>Categories</h3>"]
        scores = backed_scores(table.name, results)
        parts += [
            _category(table, row, scores[row.category], pictures=pictures / row.category)
            for row in results.rows
            if row.finished
        ]
    else:
        parts.append(_curves(table, results.rows))
    return "".join([*parts, "</section>\n"])


def _caption(table: Table, results: TableResults) -> str:
    text = caption(table, results.rows)
    machines = dict.fromkeys(
        code(machine_words(results.environments[row.environment]["machine"]))
        for row in results.rows
        if row.finished
    )
    return " ".join([text, *timed(TIMES, machines)]) if table.headline else text


def _category(table: Table, row: Row, scores: Sequence[ImageScore], *, pictures: Path) -> str:
    name = f"{table.title} {row.category}"
    value = row.metrics.get(INTERVAL_METRIC)
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


def _types(scores: Sequence[ImageScore]) -> str:
    """Show the AUROC of the normal test images against those of each defect type."""
    kinds = [image.defect_type for image in scores if image.anomalous]
    title, body = display(INTERVAL_METRIC), []
    for kind in dict.fromkeys(kinds):
        value = of_type(scores, INTERVAL_METRIC, defect_type=kind)
        written = number(value) if isinstance(value, float) else value
        body.append((kind, str(kinds.count(kind)), written))
    if len(body) < 2:
        return ""
    return table_html(
        Grid(("Defect type", "Images", title), tuple(body), ()),
        f"{title} of the normal test images against those of one defect type.",
    )


def _curves(table: Table, rows: Iterable[Row]) -> str:
    """Draw a swept setting, if all its values are numbers."""
    points: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if table.metric in row.metrics:
            try:
                value = float(row.settings.get(table.axis, ""))
            except ValueError:
                return ""
            line = points.setdefault(row.category, {})
            line.setdefault(value, []).append(row.metrics[table.metric])
    if not points:
        return ""
    title = f"{display(table.metric)} of {table.title} over {table.axis}"
    chart = learning_curve(title, table.axis, points).svg
    caption = f"<figcaption>{in_markup(title)}</figcaption>"
    return f'<div class="charts"><figure>{chart}{caption}</figure></div>'


def _waiting(tables: Iterable[Table]) -> str:
    items = "".join(
        f"<li>{in_markup(_title(table))}: <code>{in_markup(table.command)}</code></li>"
        for table in tables
    )
    return f'<section id="waiting"><h2>Not run yet</h2><ul>{items}</ul></section>' if items else ""


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


def auroc_bars(rows: Sequence[Row]) -> str:
    """Draw a bar from chance to the AUROC of each category, and its interval as a line.

    The axis runs from 0.5, or from below the smallest limit, to 1.
    """
    known = [row for row in rows if INTERVAL_METRIC in row.metrics]
    lowest = [min([row.metrics[INTERVAL_METRIC], *row.low.values()]) for row in known]
    smallest = min(lowest, default=CHANCE)
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


def _share(value: float, start: float) -> float:
    return round(100 * (value - start) / (1 - start), 2)


def _bar(row: Row, start: float) -> str:
    value = row.metrics[INTERVAL_METRIC]
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


class Picture(NamedTuple):
    """One image of a category's gallery."""

    kind: str  # why it was chosen: a key of `_TITLES`
    image: str
    defect_type: str
    score: float
    note: str
    files: dict[str, Path]  # `picture`, `map` and `mask`, those that there are


def read_gallery(folder: Path) -> list[Picture]:
    """Read the gallery of one category; one that was not made is empty."""

    def picture(kind: str, image: str, defect_type: str, score: str, *rest: str) -> Picture:
        note, *names = rest
        found = {key: folder / name for key, name in zip(_KINDS, names, strict=True) if name}
        for name in filter(None, names):
            if not _FILE.fullmatch(name):
                raise ReportError(f"must name pictures such as 00_map.webp, got {name!r}")
            if not (folder / name).is_file():
                raise ReportError(f"{folder / name} is missing, or no regular file")
        return Picture(kind, image, defect_type, float(score), note, found)

    index = folder / INDEX
    return read_csv(index, COLUMNS, picture, of="pictures") if index.exists() else []


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
    data = base64.b64encode(read_regular(path)).decode()
    suffix = path.suffix.removeprefix(".")
    return (
        f'<img src="data:image/{suffix};base64,{data}" width="160" height="160"'
        f' alt="{in_markup(f"{_KINDS[name]} of {picture.image}")}">'
    )
