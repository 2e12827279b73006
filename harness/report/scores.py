"""The per-image scores behind a table: `results/scores/<table>.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.metrics.registry import HEADLINE, METRICS
from harness.record import ImageScore, Record, finite
from harness.report.row import Row, scores_digest, to_csv
from harness.report.table import ReportError, reading
from harness.sweep.outcome import one_line
from harness.system.terminal import from_cell

_HEADER = ("category", "image", "defect_type", "anomalous", "score")
_IMAGE = tuple(name for name in HEADLINE if METRICS[name].level == "image")
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
            except (ValueError, KeyError) as error:
                where = f"{path}:{reader.line_num}"
                raise ReportError(f"{where} is no line of scores ({one_line(error)})") from None
            found.setdefault(category, []).append(line)
    return {category: tuple(images) for category, images in found.items()}


def difference(of: Record | Row, scores: Sequence[ImageScore]) -> str:
    """Compare a finished run or row with its per-image scores.

    Parameters
    ----------
    of : Record or Row
        What tells numbers of images, and metrics.
    scores : sequence of ImageScore
        All that should be behind them.

    Returns
    -------
    str
        The first number that differs, with both values; empty where none does. They are equal to
        the last bit, or another's.
    """
    from harness.metrics import image_metrics

    labels = [image.anomalous for image in scores]
    found = {"n_test_normal": labels.count(False), "n_test_anomalous": labels.count(True)}
    told: dict[str, float | None] = {name: getattr(of, name) for name in found}
    try:
        again = image_metrics(labels, [image.score for image in scores]).values
    except ValueError as error:
        return f"its {error}"
    names = [name for name in (*_IMAGE, *again) if name in _IMAGE or name in of.metrics]
    told |= {name: of.metrics.get(name) for name in names}
    return first_difference(told, found | again, by="its scores")


def first_difference(
    told: Mapping[str, float | None], found: Mapping[str, float], *, by: str
) -> str:
    """Name the first number that is another where it was found; empty where none is."""
    for name, value in told.items():
        if value != found.get(name):
            return f"its {name} is {value!r}, and {found.get(name)!r} by {by}"
    return ""


def check_scores(row: Row, scores: Sequence[ImageScore]) -> None:
    """Refuse per-image scores that are not all those behind a finished row.

    Raises
    ------
    ReportError
        A number of the row is not that of the scores, or its digest of the scores is another.
    """
    wrong = difference(row, scores)
    if not wrong and scores_digest(scores) != row.scores_digest:
        wrong = "its digest is of other scores"
    if wrong:
        raise ReportError(f"{row.dataset}/{row.category} of run {row.run_id}: {wrong}")


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
