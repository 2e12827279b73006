"""The per-image scores behind a table: `results/scores/<table>.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.record import ImageScore, finite
from harness.report.row import Row, scores_digest, to_csv
from harness.report.table import ReportError, reading
from harness.show import from_cell

_HEADER = ("category", "image", "defect_type", "anomalous", "score")
_LABELS = {"0": False, "1": True}

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
            try:
                category, image, defect_type, anomalous, score = map(from_cell, cells)
                line = ImageScore(image, defect_type, _LABELS[anomalous], finite(score))
            except (ValueError, KeyError):
                raise ReportError(f"{path}:{reader.line_num} is no line of scores") from None
            found.setdefault(category, []).append(line)
    return {category: tuple(images) for category, images in found.items()}


def check_scores(row: Row, scores: Sequence[ImageScore]) -> None:
    """Refuse per-image scores that are not all those behind a finished row.

    Raises
    ------
    ReportError
        The image metrics of the scores are not the row's, to the last bit, or its digest of the
        scores is another.
    """
    from harness.metrics import image_metrics

    name = f"the scores of {row.dataset}/{row.category}"
    try:
        again = image_metrics([i.anomalous for i in scores], [i.score for i in scores])
    except ValueError as error:
        raise ReportError(f"{name} are none: {error}") from None
    for metric, value in again.values.items():
        held = row.metric.get(metric, value)
        if value != held:
            raise ReportError(
                f"{name} give {metric} {value!r}, the row of run {row.run_id} has {held!r}"
            )
    if scores_digest(scores) != row.scores_digest:
        raise ReportError(f"{name} are not those of run {row.run_id}, which its row names")


def backed_scores(table: str, rows: Iterable[Row], scores: Scores) -> Scores:
    """Return a table's scores, all of which its finished rows must stand behind.

    Raises
    ------
    ReportError
        There are scores without a finished row, or as in `check_scores`.
    """
    finished = {row.category: row for row in rows if row.finished}
    stray = [category for category in scores if category not in finished]
    if stray:
        raise ReportError(
            f"results/scores/{table}.csv has scores of {', '.join(stray)}, of which"
            f" results/{table}.csv has no finished row"
        )
    for category, row in finished.items():
        try:
            check_scores(row, scores.get(category, ()))
        except ReportError as error:
            raise ReportError(f"results/scores/{table}.csv: {error}") from None
    return scores
