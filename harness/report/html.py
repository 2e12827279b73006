"""The report as one HTML file: no network, opens from disk, on a desk and on a phone.

What it looks like is in `page.html` and `parts.html`; here is what they are given.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.charts import histogram, roc_chart
from harness.record import ImageScore
from harness.report.caption import caption, days
from harness.report.declaration import INTERVAL_METRIC, ReportError, Table, read_csv
from harness.report.facets import machine_words
from harness.report.formats import TEMPLATES, code
from harness.report.layout import TIMES, Grid, display, grid_of, number, of_type, timed
from harness.report.rows import Row
from harness.report.stored import TableResults, backed_scores
from harness.system.files import read_regular

CHANCE = 0.5
INDEX = "index.csv"
COLUMNS = ("kind", "image", "defect_type", "score", "note", "picture", "map", "mask")
_MORE = ("image_average_precision", *TIMES)
# Of the gallery's own folder: what an index names is laid into the page.
_FILE = re.compile(r"\w+\.(webp|png)", re.ASCII)
_KINDS = {"picture": "image", "map": "anomaly map", "mask": "ground truth mask"}


class Picture(NamedTuple):
    """One image of a category's gallery."""

    kind: str  # why it was chosen: `parts.html` has their titles
    image: str
    defect_type: str
    score: float
    note: str
    files: dict[str, Path]  # `picture`, `map` and `mask`, those that there are

    @property
    def images(self) -> Iterator[tuple[str, str]]:
        """Name and embed each file."""
        for kind, path in self.files.items():
            data = base64.b64encode(read_regular(path)).decode()
            yield _KINDS[kind], f"data:image/{path.suffix.removeprefix('.')};base64,{data}"


def build_page(
    tables: Mapping[str, Table], held: Mapping[str, TableResults], *, pictures: Path
) -> str:
    """Build the whole report, with the galleries of a folder: `TABLE/CATEGORY/index.csv`."""
    shown = [name for name in tables if any(row.finished for row in held[name].rows)]
    rows = [row for name in shown for row in held[name].rows if row.finished]
    when = f", {days(row.started for row in rows)}" if rows else ""
    return TEMPLATES.get_template("page.html").render(
        summary=f"Deep feature kernel density estimation: {len(rows)} finished runs{when}.",
        sections=[_section(tables[name], held[name], pictures / name) for name in shown],
        waiting=[(_title(t), t.command) for name, t in tables.items() if name not in shown],
    )


def page_of(grid: Grid, caption: str) -> str:
    """Build a page of one table."""
    return TEMPLATES.get_template("page.html").render(
        summary="A table of tracked runs.", sections=[{"table": (grid, caption)}], waiting=[]
    )


def _title(table: Table) -> str:
    swept = f" · {table.axis}" if table.axis else ""
    return f"{table.title} · {', '.join(table.choices('backbone'))}{swept}"


def _section(table: Table, results: TableResults, pictures: Path) -> dict[str, Any]:
    rows = [row for row in results.rows if row.finished]
    grid, text = grid_of(table, results, more=_MORE), caption(table, results.rows)
    section = {"name": table.name, "title": _title(table)}
    if not table.headline:
        return section | {"table": (grid, text)}
    machines = [machine_words(results.environments[row.environment]["machine"]) for row in rows]
    text = " ".join([text, *timed(TIMES, dict.fromkeys(map(code, machines)))])
    scores = backed_scores(table.name, results)
    each = [
        {
            "row": row,
            "roc": roc_chart(f"{table.title} {row.category}", scores[row.category]),
            "histogram": histogram(f"{table.title} {row.category}", scores[row.category]),
            "types": _types(scores[row.category]),
            "pictures": read_gallery(pictures / row.category),
        }
        for row in rows
    ]
    return section | {"table": (grid, text), "bars": auroc_bars(rows), "categories": each}


def _types(scores: Sequence[ImageScore]) -> tuple[Grid, str] | None:
    """Show the AUROC of the normal test images against those of each of several defect types."""
    kinds = [image.defect_type for image in scores if image.anomalous]
    title, body = display(INTERVAL_METRIC), []
    for kind in dict.fromkeys(kinds):
        value = of_type(scores, INTERVAL_METRIC, defect_type=kind)
        written = number(value) if isinstance(value, float) else value
        body.append((kind, str(kinds.count(kind)), written))
    caption = f"{title} of the normal test images against those of one defect type."
    return (Grid(("Defect type", "Images", title), tuple(body)), caption) if body[1:] else None


def auroc_bars(rows: Iterable[Row]) -> tuple[Sequence[Row], float]:
    """Return the rows with an AUROC, and where its axis starts: 0.5, or below every limit."""
    found = [row for row in rows if INTERVAL_METRIC in row.metrics]
    smallest = [min(row.metrics[INTERVAL_METRIC], *row.low.values(), 1) for row in found]
    return found, min(CHANCE, int(min(smallest, default=CHANCE) * 10) / 10)


def read_gallery(folder: Path) -> list[Picture]:
    """Read the gallery of one category; one that was not made is empty."""

    def picture(kind: str, image: str, defect_type: str, score: str, *rest: str) -> Picture:
        note, *names = rest
        for name in filter(None, names):
            if not _FILE.fullmatch(name):
                raise ReportError(f"must name pictures such as 00_map.webp, got {name!r}")
            if not (folder / name).is_file():
                raise ReportError(f"{folder / name} is missing, or no regular file")
        found = {key: folder / name for key, name in zip(_KINDS, names, strict=True) if name}
        return Picture(kind, image, defect_type, float(score), note, found)

    index = folder / INDEX
    return read_csv(index, COLUMNS, picture, of="pictures") if index.exists() else []
