"""Pictures beside the numbers: images, anomaly maps and masks that `harness.gallery` wrote."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.table import ReportError, reading
from harness.system.files import read_regular
from harness.system.terminal import from_cell, in_markup

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
    """One entry of a category's gallery.

    Attributes
    ----------
    kind : str
        Why it was chosen: `false_alarm`, `miss`, `best_map` or `worst_map`.
    image, defect_type : str
        As in `ImageScore`.
    score : float
        The anomaly score.
    note : str
        What else is to be said, such as the image's own pixel AUROC.
    files : dict of str to Path
        `picture`, `map` and `mask`, those that there are.
    """

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
