"""The per-image scores behind a table: `results/scores/<table>.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.record import ImageScore, finite
from harness.report.row import to_csv
from harness.report.table import ReportError, reading
from harness.show import from_cell

_HEADER = ("category", "image", "defect_type", "anomalous", "score")

Scores = Mapping[str, Sequence[ImageScore]]
"""Per-image scores by category, in the order of the split."""


def write_scores(scores: Scores) -> str:
    """Write scores as CSV, each as the shortest text that reads back as the same float64."""
    lines = [
        (category, image, defect_type, str(int(anomalous)), repr(float(score)))
        for category, images in scores.items()
        for image, defect_type, anomalous, score in images
    ]
    return to_csv([_HEADER, *lines])


def read_scores(path: Path) -> dict[str, tuple[ImageScore, ...]]:
    """Read a scores file; an absent one is an error, as `--check` would find."""
    found: dict[str, list[ImageScore]] = {}
    with reading(path, errors="surrogatepass", newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != _HEADER:
            raise ReportError(f"{path} has not the columns {', '.join(_HEADER)}")
        for cells in reader:
            category, image, defect_type, anomalous, score = map(from_cell, cells)
            line = ImageScore(image, defect_type, anomalous == "1", finite(score))
            found.setdefault(category, []).append(line)
    return {category: tuple(images) for category, images in found.items()}
