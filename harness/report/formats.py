"""A table as Markdown and LaTeX, and the report as one HTML file, which loads nothing.

What the page looks like is in `page.html` and `parts.html`; here is what they are given.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from harness.charts import histogram, roc_chart
from harness.record import ImageScore
from harness.report import layout
from harness.report.declaration import INTERVAL_METRIC, ReportError, Table, read_csv
from harness.report.facets import machine_words
from harness.report.layout import Grid, code, display, number, text
from harness.report.results import Row, TableResults, backed_scores
from harness.system.files import read_regular
from harness.system.terminal import in_markup, shown, templates

_SPAN = re.compile(r"`([^`]*)`|((?:\\.|[^`])+|`)", re.DOTALL)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def markdown(grid: Grid, caption: str) -> str:
    """Render a grid: the table, an empty line, the caption.

    The header and the first column are names; the other cells, and the caption, are Markdown.
    """
    rule = ("---", *("---:" for _ in grid.header[1:]))
    body = ((text(name), *cells) for name, *cells in grid.body)
    average = [(f"**{name}**", *cells) for name, *cells in filter(None, [grid.average])]
    lines = [tuple(map(text, grid.header)), rule, *body, *average]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption}\n"


def spans(markdown: str) -> Iterator[tuple[bool, str]]:
    r"""Read what `text` and `code` wrote, for other formats.

    >>> list(spans(text("a|b") + " " + code("c|d")))
    [(False, 'a|b '), (True, 'c|d')]
    """
    for written, plain in _SPAN.findall(markdown):
        yield (False, _ESCAPED.sub(r"\1", plain)) if plain else (True, written)


_LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # After the end of a line they would begin an argument.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "–": "--", "±": r"$\pm$", "·": r"$\cdot$", "−": r"$-$",
}  # fmt: skip
# A label is never shown, and takes no escapes.
_NO_LABEL = re.compile(r"[^\w.:-]", re.ASCII)


def latex(name: str, grid: Grid, caption: str) -> str:
    """Render a grid as a floating table, labelled `tab:NAME`."""
    pieces = ((is_code, escape(words)) for is_code, words in spans(caption))
    words = "".join(rf"\texttt{{{piece}}}" if is_code else piece for is_code, piece in pieces)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{words}}}",
        rf"\label{{tab:{_NO_LABEL.sub('-', name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
        r"\toprule",
        _latex_line(grid.header),
        r"\midrule",
        *(_latex_line(line) for line in grid.body),
        *([r"\midrule", _latex_line(grid.average)] if grid.average else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Escape what LaTeX takes for a command.

    >>> escape("metal_nut: 95 %")
    'metal\\_nut: 95 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in shown(text))


def _latex_line(cells: tuple[str, ...]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def inline(markdown: str) -> Markup:
    """Turn a caption's code spans into elements and escape the rest.

    >>> print(inline("a < b, `x`"))
    a &lt; b, <code>x</code>
    """
    return Markup("").join(
        Markup("<code>{}</code>" if code else "{}").format(Markup(in_markup(words)))  # noqa: S704
        for code, words in spans(markdown)
    )


TEMPLATES = templates(Path(__file__).parent)
TEMPLATES.filters["inline"] = inline

INDEX = "index.csv"
COLUMNS = ("kind", "image", "defect_type", "score", "note", "picture", "map", "mask")
_MORE = ("image_average_precision", *layout.TIMES)
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
    when = f", {layout.days(row.started for row in rows)}" if rows else ""
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
    grid, text = layout.grid_of(table, results, more=_MORE), layout.caption(table, results.rows)
    section = {"name": table.name, "title": _title(table)}
    if not table.headline:
        return section | {"table": (grid, text)}
    machines = [machine_words(results.environments[row.environment]["machine"]) for row in rows]
    text = " ".join([text, *layout.timed(layout.TIMES, dict.fromkeys(map(code, machines)))])
    scores = backed_scores(table.name, results)
    each = []
    for row in rows:
        name, images = f"{table.title} {row.category}", scores[row.category]
        charts = {"roc": roc_chart(name, images), "histogram": histogram(name, images)}
        own = {"types": _types(images), "pictures": read_gallery(pictures / row.category)}
        each.append({"row": row} | charts | own)
    return section | {"table": (grid, text), "bars": auroc_bars(rows), "categories": each}


def _types(scores: Sequence[ImageScore]) -> tuple[Grid, str] | None:
    """Show the AUROC of the normal test images against those of each of several defect types."""
    kinds = [image.defect_type for image in scores if image.anomalous]
    title, body = display(INTERVAL_METRIC), []
    for kind in dict.fromkeys(kinds):
        value = layout.of_type(scores, INTERVAL_METRIC, defect_type=kind)
        written = number(value) if isinstance(value, float) else value
        body.append((kind, str(kinds.count(kind)), written))
    caption = f"{title} of the normal test images against those of one defect type."
    return (Grid(("Defect type", "Images", title), tuple(body)), caption) if body[1:] else None


def auroc_bars(rows: Iterable[Row]) -> tuple[Sequence[Row], float]:
    """Return the rows with an AUROC, and where its axis starts: at chance, or below every limit."""
    found = [row for row in rows if INTERVAL_METRIC in row.metrics]
    lowest = [min(row.metrics[INTERVAL_METRIC], *row.low.values(), 0.5) for row in found]
    return found, int(min(lowest, default=0.5) * 10) / 10


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
