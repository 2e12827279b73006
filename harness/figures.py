"""Pictures of one job's result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.record import Record


def draw_scores(path: Path, record: Record) -> None:
    """Draw the anomaly scores of the test images, by defect type, into a PNG file.

    Parameters
    ----------
    path : Path
        The file to write.
    record : Record
        A finished job's record.
    """
    # The object interface keeps no figure open and needs no display.
    from matplotlib.figure import Figure

    groups = _by_defect_type(record)
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for row, (defect_type, scores) in enumerate(groups.items()):
        axes.plot(scores, np.full(len(scores), row), "|", markersize=14, label=defect_type)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel("anomaly score (negative log density, nats)")
    axes.set_title(f"{record.dataset}/{record.category} · {record.model} · {record.backbone}")
    figure.savefig(path, dpi=120)


def _by_defect_type(record: Record) -> dict[str, list[float]]:
    """Return the scores of each defect type, normal images first."""
    ordered = sorted(record.scores, key=lambda score: (score.anomalous, score.defect_type))
    groups: dict[str, list[float]] = {}
    for score in ordered:
        groups.setdefault(score.defect_type, []).append(score.score)
    return groups
