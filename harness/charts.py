"""Every figure as SVG text: of a run's artifacts, and of the report's page.

A plotting library takes a tenth of a second for such a figure, as long as all the rest of a job
whose features are cached. Here is what a figure is given; its shapes are in `charts.svg`.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.registry import METRICS
from harness.record import ImageScore, Mistake, Record
from harness.system.terminal import templates

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 360
_BINS = 36
_HEAD = 52
"""Above the charts of a run: the names of the run and of each chart."""
# As images are read; Pillow knows formats that start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_SIDE = 160
# Three points of a scale from dark to light, which no hue is needed to read.
_COLOURS = np.array([(13, 8, 135), (204, 71, 120), (240, 249, 33)], dtype=np.float64)


class Chart(NamedTuple):
    """A chart of the width `WIDTH`."""

    title: str
    body: str  # its shapes, as markup
    height: int

    @property
    def svg(self) -> str:
        """The chart as a picture that takes the width it is given."""
        return str(_shapes().picture(self, WIDTH))


@cache
def _shapes() -> Any:
    return templates(Path(__file__).parent).get_template("charts.svg").module


def draw_curves(record: Record) -> str:
    """Draw a record's ROC curve, precision-recall curve and scores by defect type."""
    name, scores = f"{record.dataset}/{record.category}", record.scores
    charts = [("images by anomaly score", histogram(name, scores))]
    if len({score.anomalous for score in scores}) == 2:
        roc = (f"ROC{_value(record, 'image_auroc')}", roc_chart(name, scores))
        precision = f"precision-recall{_value(record, 'image_f1_max')}"
        charts = [roc, (precision, precision_recall_chart(name, scores)), *charts]
    title = f"{name} · {record.model} · {record.backbone} · seed {record.seed}"
    height = _HEAD + max(chart.height for _, chart in charts)
    return str(_shapes().curves(title, charts, WIDTH, _HEAD, height))


def _value(record: Record, name: str) -> str:
    of = record.metrics
    return f": {METRICS[name].display} {of[name]:.3f}" if name in of else ""


def roc_chart(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw the ROC curve of a job: true against false positive rate over all thresholds."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve([i.anomalous for i in scores], [i.score for i in scores])
    names, points = ("false positive rate", "true positive rate"), np.column_stack((fpr, tpr))
    return Chart(f"ROC curve of {title}", _shapes().unit(names, points, (0, 1)), 340)


def precision_recall_chart(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw precision against recall over all thresholds, above the share of anomalous images."""
    from sklearn.metrics import precision_recall_curve

    labels = [image.anomalous for image in scores]
    precision, recall, _ = precision_recall_curve(
        labels, [image.score for image in scores], drop_intermediate=True
    )
    points, chance = np.column_stack((recall, precision)), (fmean(labels),) * 2
    body = _shapes().unit(("recall", "precision"), points, chance)
    return Chart(f"Precision-recall curve of {title}", body, 340)


class Bend(NamedTuple):
    """A scale for anomaly scores: straight around the normal images, logarithmic far from them.

    Far anomalies have scores hundreds of times those of normal images; both must be seen.
    """

    center: float  # median and spread of the normal images' scores
    width: float

    def forward(self, score: float) -> float:
        """Bend a score."""
        return math.asinh((score - self.center) / self.width)

    def backward(self, bent: float) -> float:
        """Unbend it."""
        return self.center + self.width * math.sinh(bent)


def bend_around(normal: Sequence[float]) -> Bend:
    """Choose the bend from the normal images' scores."""
    lower, middle, upper = np.quantile(normal, (0.25, 0.5, 0.75)).tolist()
    return Bend(middle, 2 * (upper - lower) or 1.0)


def bent_ticks(bend: Bend, low: float, high: float) -> list[float]:
    """Choose round scores at about equal distances along a bent axis, four at most."""
    ticks: list[float] = []
    for share in (0.02, 0.34, 0.66, 0.98):
        rough = bend.backward(low + share * (high - low))
        digits = 1 - math.floor(math.log10(abs(rough))) if rough else 0
        rounded = round(rough, min(digits, 6))
        if low <= bend.forward(rounded) <= high and rounded not in ticks:
            ticks.append(rounded)
    return ticks


def histogram(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw how many images of each defect type have which anomaly score, normal images first."""
    normal = [image.score for image in scores if not image.anomalous]
    bend = bend_around(normal or [image.score for image in scores])
    groups: dict[tuple[bool, str], list[float]] = {}
    for image in sorted(scores, key=lambda image: (image.anomalous, image.defect_type)):
        kind = image.anomalous, image.defect_type
        groups.setdefault(kind, []).append(bend.forward(image.score))
    low, high = min(map(min, groups.values())), max(map(max, groups.values()))
    high = high if high > low else low + 1
    rows = [
        (anomalous, defect_type, np.histogram(values, _BINS, (low, high))[0].tolist())
        for (anomalous, defect_type), values in groups.items()
    ]
    ticks = {tick: bend.forward(tick) for tick in bent_ticks(bend, low, high)}
    places = {tick: (bent - low) / (high - low) for tick, bent in ticks.items()}
    body = _shapes().histogram(rows, places)
    return Chart(f"Anomaly scores of {title} by defect type", body, 42 + 50 * len(rows))


def draw_mistakes(mistakes: Sequence[Mistake]) -> str:
    """Draw each image, its anomaly map laid over it, and what is wrong with its score."""
    panels = []
    for mistake in mistakes:
        drawn = [(picture := _picture(mistake), "jpeg")]
        if mistake.anomaly_map is not None:
            drawn += [(picture.convert("L"), "jpeg"), (coloured(mistake.anomaly_map), "png")]
        title = f"{mistake.image.image}, score {mistake.image.score:.4g}"
        panels.append((title, mistake.note, mistake.covers, [_embedded(*one) for one in drawn]))
    return str(_shapes().mistakes(panels, _SIDE))


def _picture(mistake: Mistake) -> Image.Image:
    from PIL import Image

    from harness.data.images import displayed

    with Image.open(mistake.path, formats=_FORMATS) as file:
        file.draft("RGB", (_SIDE, _SIDE))  # lets the JPEG decoder leave out what is too fine
        upright = displayed(file).convert("RGB")
    return upright.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2)


def coloured(anomaly_map: NDArray) -> Image.Image:
    """Write an anomaly map in colours, from its own least to its own largest value."""
    from PIL import Image

    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    share = (anomaly_map - low) / (high - low) if high > low else np.zeros_like(anomaly_map)
    channels = [np.interp(share, (0, 0.5, 1), _COLOURS[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _embedded(picture: Image.Image, kind: str) -> str:
    data = BytesIO()
    picture.save(data, kind, quality=80)
    return f"data:image/{kind};base64,{b64encode(data.getvalue()).decode()}"
