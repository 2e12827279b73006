"""How a job's scores tell anomalous images from normal ones: ROC, precision-recall, histograms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from harness.figures.svg import (
    BLUE,
    LIGHT,
    ORANGE,
    Axes,
    document,
    rectangle,
    round_ticks,
    text,
    upright,
)
from harness.metrics.registry import METRICS
from harness.record import ImageScore, Record

_SIDE = 220
_TOP = 50
_ROW = 26
_LEFT = {"roc": 55, "pr": 345, "scores": 730}
_SCORES_WIDTH = 300
_BINS = 40
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

_Kind = tuple[bool, str]
"""Whether images are anomalous, and their defect type."""


def draw_curves(record: Record) -> str:
    """Draw a record's ROC curve, precision-recall curve and scores by defect type.

    Parameters
    ----------
    record : Record
        A finished job's record.

    Returns
    -------
    str
        SVG. Without images of both kinds there are no curves.
    """
    groups = _by_defect_type(record.scores)
    height = max(_SIDE, _ROW * len(groups)) + _TOP + 50
    shapes = [text(_title(record), (_LEFT["roc"], 20))]
    if len({score.anomalous for score in record.scores}) == 2:
        shapes += [*_roc(record), *_precision_recall(record)]
    return document([*shapes, *_histograms(groups)], width=1060, height=height)


def _title(record: Record) -> str:
    cell = f"{record.dataset}/{record.category} · {record.model} · {record.backbone}"
    return f"{cell} · seed {record.seed}"


def _roc(record: Record) -> Iterator[str]:
    labels, scores = _labels_and_scores(record)
    fpr, tpr, _ = roc_curve(labels, scores)
    axes = Axes(_LEFT["roc"], _TOP, _SIDE, _SIDE)
    title = f"ROC{_value(record, 'image_auroc')}"
    yield from _unit_axes(axes, title, labels=("false positive rate", "true positive rate"))
    yield axes.curve([0, 1], [0, 1], colour=LIGHT)
    yield axes.curve(fpr, tpr, colour=BLUE)


def _precision_recall(record: Record) -> Iterator[str]:
    labels, scores = _labels_and_scores(record)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    axes = Axes(_LEFT["pr"], _TOP, _SIDE, _SIDE)
    title = f"precision-recall{_value(record, 'image_f1_max')}"
    yield from _unit_axes(axes, title, labels=("recall", "precision"))
    share = float(labels.mean())
    yield axes.curve([0, 1], [share, share], colour=LIGHT)
    yield axes.curve(recall, precision, colour=BLUE)


def _unit_axes(axes: Axes, title: str, *, labels: tuple[str, str]) -> list[str]:
    middle = (axes.left - 32, axes.top + axes.height / 2)
    ticks = [*axes.x_ticks(_TICKS), *axes.y_ticks(_TICKS)]
    return [*axes.frame(title, x_label=labels[0]), upright(labels[1], middle), *ticks]


def _histograms(groups: dict[_Kind, list[ImageScore]]) -> Iterator[str]:
    """Draw a row of bars for each defect type, all over one axis."""
    values = np.array([score.score for group in groups.values() for score in group])
    edges = np.histogram_bin_edges(values, _BINS)
    limits = (float(edges[0]), float(edges[-1]))
    axes = Axes(_LEFT["scores"], _TOP, _SCORES_WIDTH, _ROW * len(groups), x_range=limits)
    yield from axes.frame("images by anomaly score", x_label="anomaly score")
    yield from axes.x_ticks(round_ticks(*limits))
    for row, ((anomalous, defect_type), group) in enumerate(groups.items()):
        bottom = _TOP + _ROW * (row + 1)
        yield text(f"{defect_type} ({len(group)})", (axes.left - 6, bottom - 8), anchor="end")
        counts = np.histogram([score.score for score in group], edges)[0]
        colour = ORANGE if anomalous else BLUE
        yield from _bars(axes, counts, edges=edges, bottom=bottom, colour=colour)


def _bars(
    axes: Axes, counts: NDArray[np.int64], *, edges: NDArray[np.float64], bottom: float, colour: str
) -> Iterator[str]:
    tops = counts / counts.max() * (_ROW - 4)
    ends = axes.x(edges)
    for left, right, height in zip(ends[:-1], ends[1:], tops.tolist(), strict=True):
        if height:
            style = f"fill='{colour}'"
            at = (left, bottom - height)
            yield rectangle(at, max(1.0, right - left), height=height, style=style)


def _by_defect_type(scores: tuple[ImageScore, ...]) -> dict[_Kind, list[ImageScore]]:
    """Return the scores of each defect type, normal images first, whatever a type is called."""
    groups: dict[_Kind, list[ImageScore]] = {}
    for score in sorted(scores, key=lambda score: (score.anomalous, score.defect_type)):
        groups.setdefault((score.anomalous, score.defect_type), []).append(score)
    return groups


def _labels_and_scores(record: Record) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels = np.array([score.anomalous for score in record.scores])
    return labels, np.array([score.score for score in record.scores])


def _value(record: Record, name: str) -> str:
    if name not in record.metrics:
        return ""
    return f": {METRICS[name].display} {record.metrics[name]:.3f}"
