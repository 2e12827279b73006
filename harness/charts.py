"""Every figure as SVG text: of a run's artifacts, and of the report's page.

A plotting library takes a tenth of a second for such a figure, as long as all the rest of a job
whose features are cached. A chart is drawn for a phone's width and coloured by the style around it.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from statistics import stdev
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.registry import METRICS
from harness.record import ImageScore, Mistake, Record
from harness.system.terminal import in_markup

if TYPE_CHECKING:
    from PIL import Image


class Scale(NamedTuple):
    """A straight line from values to positions."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Place a value, rounded to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round values within limits.

    >>> nice_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(-3, 41)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


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
    ordered = sorted(normal)
    middle = ordered[len(ordered) // 2]
    spread = ordered[(len(ordered) * 3) // 4] - ordered[len(ordered) // 4]
    return Bend(middle, 2 * spread or 1.0)


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


WIDTH = 360
_BINS = 36
_ROW = 50
_BAR = 26
_HEAD = 52
"""Above the charts of a run: the names of the run and of each chart."""
# Colours of the palette by Okabe and Ito, which people with any colour vision tell apart.
_STYLE = (
    "text{fill:#444} line{stroke:#ddd} .curve{fill:none;stroke:#0072b2;stroke-width:1.5}"
    " .chance{stroke:#777;stroke-dasharray:4 4} .axis,.tick{stroke:#777}"
    " .normal rect{fill:#0072b2} .anomalous rect{fill:#d55e00}"
)
# As images are read; Pillow knows formats that start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_SIDE = 160
_GAP = 8
_CAPTION = 46
# Of photographs, and of the maps laid over them.
_OPACITY = {"jpeg": 1, "png": 0.6}
# Three points of a scale from dark to light, which no hue is needed to read.
_COLOURS = np.array([(13, 8, 135), (204, 71, 120), (240, 249, 33)], dtype=np.float64)

_Kind = tuple[bool, str]
"""Whether images are anomalous, and their defect type."""


class Chart(NamedTuple):
    """A chart of the width `WIDTH`."""

    title: str
    body: str
    height: float

    @property
    def svg(self) -> str:
        """The chart as a picture that takes the width it is given."""
        return (
            f'<svg role="img" aria-label="{in_markup(self.title)}"'
            f' viewBox="0 0 {WIDTH} {self.height:g}" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{in_markup(self.title)}</title>{self.body}</svg>"
        )


def draw_curves(record: Record) -> str:
    """Draw a record's ROC curve, precision-recall curve and scores by defect type."""
    name, scores = f"{record.dataset}/{record.category}", record.scores
    charts = [("images by anomaly score", histogram(name, scores))]
    if len({score.anomalous for score in scores}) == 2:
        roc = (f"ROC{_value(record, 'image_auroc')}", roc_chart(name, scores))
        precision = f"precision-recall{_value(record, 'image_f1_max')}"
        charts = [roc, (precision, precision_recall_chart(name, scores)), *charts]
    title = f"{name} · {record.model} · {record.backbone} · seed {record.seed}"
    shapes = [_label(title, 12, 20, anchor="start")]
    for number, (caption, chart) in enumerate(charts):
        shapes.append(_label(caption, WIDTH * (number + 0.5), 44))
        shapes.append(f"<g transform='translate({WIDTH * number} {_HEAD})'>{chart.body}</g>")
    height = _HEAD + max(chart.height for _, chart in charts)
    return _document(shapes, width=3 * WIDTH, height=height)


def _value(record: Record, name: str) -> str:
    if name not in record.metrics:
        return ""
    return f": {METRICS[name].display} {record.metrics[name]:.3f}"


def _document(shapes: Iterable[str], *, width: float, height: float) -> str:
    """Return a picture of the shapes on white, that stands alone."""
    size = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'"
    font = "font-family='Helvetica,Arial,sans-serif' font-size='11'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {font}><style>{_STYLE}</style>"
    return "\n".join([head, "<rect width='100%' height='100%' fill='white'/>", *shapes, "</svg>\n"])


def roc_chart(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw the ROC curve of a job: true against false positive rate over all thresholds."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve([i.anomalous for i in scores], [i.score for i in scores])
    names = ("false positive rate", "true positive rate")
    return _unit_chart(f"ROC curve of {title}", names, curve=(fpr, tpr), chance=(0, 1))


def precision_recall_chart(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw precision against recall over all thresholds, above the share of anomalous images."""
    from sklearn.metrics import precision_recall_curve

    labels = [image.anomalous for image in scores]
    precision, recall, _ = precision_recall_curve(
        labels, [image.score for image in scores], drop_intermediate=True
    )
    share, title = sum(labels) / len(labels), f"Precision-recall curve of {title}"
    names = ("recall", "precision")
    return _unit_chart(title, names, curve=(recall, precision), chance=(share, share))


def _stroke(style: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{style}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _label(words: str, x: float, y: float, *, anchor: str = "middle", style: str = "") -> str:
    named = f'class="{style}" ' if style else ""
    return f'<text {named}x="{x}" y="{y}" text-anchor="{anchor}">{in_markup(words)}</text>'


def _unit_chart(
    title: str,
    names: tuple[str, str],
    *,
    curve: tuple[NDArray[np.float64], NDArray[np.float64]],
    chance: tuple[float, float],
) -> Chart:
    """Draw a curve from 0 to 1 both ways, and what chance gives from the left to the right."""
    x, y = Scale(0, 1, 40, 330), Scale(0, 1, 300, 10)
    line = " ".join(f"{x(a)},{y(b)}" for a, b in zip(*(c.tolist() for c in curve), strict=True))
    body = _axes(x, y, names)
    body += _stroke("chance", (x(0), y(chance[0])), (x(1), y(chance[1])))
    body += f'<polyline class="curve" points="{line}"/>'
    return Chart(title, body, 340)


def histogram(title: str, scores: Sequence[ImageScore]) -> Chart:
    """Draw how many images of each defect type have which anomaly score, normal images first."""
    groups = _by_defect_type(scores)
    normal = [image.score for image in scores if not image.anomalous]
    bend = bend_around(normal or [image.score for image in scores])
    bent = {kind: [bend.forward(s) for s in values] for kind, values in groups.items()}
    low = min(min(values) for values in bent.values())
    high = max(max(values) for values in bent.values())
    high = high if high > low else low + 1
    x, bottom = Scale(low, high, 12, 348), 4 + _ROW * len(bent)
    body = "".join(
        _histogram_row(kind, values, x=x, base=_ROW * (row + 1))
        for row, (kind, values) in enumerate(bent.items())
    )
    for tick in bent_ticks(bend, low, high):
        at = x(bend.forward(tick))
        body += _stroke("tick", (at, bottom), (at, bottom + 4))
        body += _label(f"{tick:g}", at, bottom + 16)
    body += _stroke("axis", (12, bottom), (348, bottom))
    body += _label("anomaly score", 180, bottom + 32)
    return Chart(f"Anomaly scores of {title} by defect type", body, bottom + 38)


def _histogram_row(kind: _Kind, values: Sequence[float], *, x: Scale, base: float) -> str:
    anomalous, defect_type = kind
    counts = [0] * _BINS
    for value in values:
        counts[min(int((value - x.low) / (x.high - x.low) * _BINS), _BINS - 1)] += 1
    width = (x.stop - x.start) / _BINS
    bars = "".join(
        f'<rect x="{x.start + width * i:.1f}" y="{base - _BAR * n / max(counts):.1f}"'
        f' width="{width - 1:.1f}" height="{_BAR * n / max(counts):.1f}">'
        f"<title>{n} of {len(values)}</title></rect>"
        for i, n in enumerate(counts)
        if n
    )
    style = "anomalous" if anomalous else "normal"
    name = f"{defect_type} ({len(values)})"
    head = _label(name, 12, base - _BAR - 6, anchor="start")
    return f'<g class="{style}">{head}{bars}{_stroke("axis", (12, base), (348, base))}</g>'


def _by_defect_type(scores: Sequence[ImageScore]) -> dict[_Kind, list[float]]:
    """Gather the scores of each defect type, normal images first, whatever a type is called."""
    groups: dict[_Kind, list[float]] = {}
    for image in sorted(scores, key=lambda image: (image.anomalous, image.defect_type)):
        groups.setdefault((image.anomalous, image.defect_type), []).append(image.score)
    return groups


def learning_curve(
    title: str, axis: str, points: Mapping[str, Mapping[float, Sequence[float]]]
) -> Chart:
    """Draw a metric against a swept setting, with its standard deviation over seeds."""
    xs = sorted({value for line in points.values() for value in line})
    every = [metric for line in points.values() for seeds in line.values() for metric in seeds]
    low = min(every) - 0.02
    positions = {value: 44 + i * 236 / max(len(xs) - 1, 1) for i, value in enumerate(xs)}
    y = Scale(low, max(*every, low + 0.1), 250, 12)
    body = "".join(
        _stroke("grid", (36, y(t)), (288, y(t))) + _label(f"{t:g}", 32, y(t) + 4, anchor="end")
        for t in nice_ticks(y.low, y.high)
    )
    body += "".join(_label(f"{value:g}", round(at, 1), 268) for value, at in positions.items())
    body += _label(axis, 162, 288)
    ends = _apart([y(_mean(line[max(line)])) for line in points.values()])
    for number, (category, line) in enumerate(points.items()):
        body += _curve(category, line, positions=positions, y=y, style=f"series{number % 6}")
        body += _label(category, 288, ends[number] + 4, anchor="start", style=f"series{number % 6}")
    return Chart(title, body, 296)


def _curve(
    name: str,
    line: Mapping[float, Sequence[float]],
    *,
    positions: Mapping[float, float],
    y: Scale,
    style: str,
) -> str:
    body, points = "", []
    for value, seeds in sorted(line.items()):
        center, spread = _mean(seeds), stdev(seeds) if len(seeds) > 1 else 0.0
        at = round(positions[value], 1)
        points.append(f"{at},{y(center)}")
        body += _stroke("whisker", (at, y(center + spread)), (at, y(center - spread)))
        body += (
            f'<circle cx="{at}" cy="{y(center)}" r="3"><title>{in_markup(name)}, {value:g}:'
            f" {center:.3f} ± {spread:.3f}</title></circle>"
        )
    return f'<g class="{style}"><polyline class="curve" points="{" ".join(points)}"/>{body}</g>'


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _apart(positions: Sequence[float], gap: float = 13) -> list[float]:
    """Push labels down until none covers another."""
    placed = list(positions)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    return placed


def _axes(x: Scale, y: Scale, titles: tuple[str, str]) -> str:
    body = ""
    for tick in nice_ticks(0, 1, 4):
        body += _stroke("grid", (x(tick), y(0)), (x(tick), y(1)))
        body += _stroke("grid", (x(0), y(tick)), (x(1), y(tick)))
        body += _label(f"{tick:g}", x(tick), y(0) + 15)
        body += _label(f"{tick:g}", x(0) - 6, y(tick) + 4, anchor="end")
    middle = (y(0) + y(1)) / 2
    body += _label(titles[0], (x(0) + x(1)) / 2, y(0) + 33)
    turn = f'transform="rotate(-90 11 {middle})"'
    return body + f'<text x="11" y="{middle}" text-anchor="middle" {turn}>{titles[1]}</text>'


def draw_mistakes(mistakes: Sequence[Mistake]) -> str:
    """Draw each image, its anomaly map laid over it, and what is wrong with its score."""
    column = 2 * _SIDE + 2 * _GAP
    rows = -(-len(mistakes) // 3)
    shapes = [
        shape
        for number, mistake in enumerate(mistakes)
        for shape in _pair(mistake, number % 3 * column + _GAP, number // 3 * (_SIDE + _CAPTION))
    ]
    width = min(3, len(mistakes)) * column + _GAP
    return _document(shapes, width=width, height=rows * (_SIDE + _CAPTION) + _GAP)


def _pair(mistake: Mistake, left: float, top: float) -> Iterator[str]:
    image = mistake.image
    yield _label(f"{image.image}, score {image.score:.4g}", left, top + 18, anchor="start")
    yield _label(mistake.note, left, top + 32, anchor="start")
    top += _CAPTION - _GAP
    picture = _picture(mistake)
    yield _embed(picture, (left, top), kind="jpeg")
    if mistake.anomaly_map is not None:
        yield _embed(picture.convert("L"), (left + _SIDE, top), kind="jpeg")
        # The browser enlarges the few positions of the map smoothly.
        side = _SIDE * mistake.covers
        corner = left + _SIDE + (_SIDE - side) / 2, top + (_SIDE - side) / 2
        yield _embed(_coloured(mistake.anomaly_map), corner, kind="png", side=side)


def _picture(mistake: Mistake) -> Image.Image:
    from PIL import Image

    from harness.data.images import displayed

    with Image.open(mistake.path, formats=_FORMATS) as file:
        file.draft("RGB", (_SIDE, _SIDE))  # lets the JPEG decoder leave out what is too fine
        upright = displayed(file).convert("RGB")
    return upright.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2)


def _coloured(anomaly_map: NDArray) -> Image.Image:
    from PIL import Image

    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    share = (anomaly_map - low) / (high - low) if high > low else np.zeros_like(anomaly_map)
    channels = [np.interp(share, (0, 0.5, 1), _COLOURS[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _embed(picture: Image.Image, at: tuple[float, float], *, kind: str, side: float = _SIDE) -> str:
    data = BytesIO()
    picture.save(data, kind, quality=80)
    link = f"data:image/{kind};base64,{b64encode(data.getvalue()).decode()}"
    opacity = _OPACITY[kind]
    place = f"x='{at[0]:.0f}' y='{at[1]:.0f}' width='{side:.0f}' height='{side:.0f}'"
    return f"<image {place} opacity='{opacity}' preserveAspectRatio='none' href='{link}'/>"
