"""Charts as SVG text, drawn for a phone's width and coloured by the page's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import stdev

from harness.record import ImageScore
from harness.report.averages import mean
from harness.report.page.scale import Scale, bend_around, bent_ticks, nice_ticks
from harness.show import in_markup

WIDTH = 360
_BINS = 36
_ROW = 50
_BAR = 26

_Kind = tuple[bool, str]
"""Whether images are anomalous, and their defect type."""


def roc_chart(title: str, scores: Sequence[ImageScore]) -> str:
    """Draw the ROC curve of a job: true against false positive rate over all thresholds."""
    from sklearn.metrics import roc_curve

    labels = [image.anomalous for image in scores]
    fpr, tpr, _ = roc_curve(labels, [image.score for image in scores])
    x, y = Scale(0, 1, 40, 330), Scale(0, 1, 300, 10)
    line = " ".join(f"{x(a)},{y(b)}" for a, b in zip(fpr.tolist(), tpr.tolist(), strict=True))
    body = _axes(x, y, ("false positive rate", "true positive rate"))
    body += f'<line class="chance" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>'
    body += f'<polyline class="curve" points="{line}"/>'
    return _svg(f"ROC curve of {title}", body, height=340)


def histogram(title: str, scores: Sequence[ImageScore]) -> str:
    """Draw how many images of each defect type have which anomaly score, normal images first."""
    groups = _by_defect_type(scores)
    bend = bend_around([image.score for image in scores if not image.anomalous])
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
        body += f'<line class="tick" x1="{at}" y1="{bottom}" x2="{at}" y2="{bottom + 4}"/>'
        body += f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    body += f'<line class="axis" x1="12" y1="{bottom}" x2="348" y2="{bottom}"/>'
    body += f'<text x="180" y="{bottom + 32}" text-anchor="middle">anomaly score</text>'
    return _svg(f"Anomaly scores of {title} by defect type", body, height=bottom + 38)


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
    name = f"{in_markup(defect_type)} ({len(values)})"
    return (
        f'<g class="{style}"><text x="12" y="{base - _BAR - 6}">{name}</text>{bars}'
        f'<line class="axis" x1="12" y1="{base}" x2="348" y2="{base}"/></g>'
    )


def _by_defect_type(scores: Sequence[ImageScore]) -> dict[_Kind, list[float]]:
    """Gather the scores of each defect type, normal images first, whatever a type is called."""
    groups: dict[_Kind, list[float]] = {}
    for image in sorted(scores, key=lambda image: (image.anomalous, image.defect_type)):
        groups.setdefault((image.anomalous, image.defect_type), []).append(image.score)
    return groups


def learning_curve(
    title: str, axis: str, points: Mapping[str, Mapping[float, Sequence[float]]]
) -> str:
    """Draw a metric against a swept setting, with its standard deviation over seeds.

    Parameters
    ----------
    title, axis : str
        What is drawn, and the name of the setting.
    points : mapping of str to mapping of float to sequence of float
        For each category and value, the metric of every seed.
    """
    xs = sorted({value for line in points.values() for value in line})
    every = [metric for line in points.values() for seeds in line.values() for metric in seeds]
    low = min(every) - 0.02
    positions = {value: 44 + i * 236 / max(len(xs) - 1, 1) for i, value in enumerate(xs)}
    y = Scale(low, max(*every, low + 0.1), 250, 12)
    body = "".join(
        f'<line class="grid" x1="36" x2="288" y1="{y(t)}" y2="{y(t)}"/>'
        f'<text x="32" y="{y(t) + 4}" text-anchor="end">{t:g}</text>'
        for t in nice_ticks(y.low, y.high)
    )
    body += "".join(
        f'<text x="{at:.1f}" y="268" text-anchor="middle">{value:g}</text>'
        for value, at in positions.items()
    )
    body += f'<text x="162" y="288" text-anchor="middle">{in_markup(axis)}</text>'
    ends = _apart([y(mean(line[max(line)])) for line in points.values()])
    for number, (category, line) in enumerate(points.items()):
        body += _curve(category, line, positions=positions, y=y, style=f"series{number % 6}")
        body += (
            f'<text class="series{number % 6}" x="288" y="{ends[number] + 4}">'
            f"{in_markup(category)}</text>"
        )
    return _svg(title, body, height=296)


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
        center, spread = mean(seeds), stdev(seeds) if len(seeds) > 1 else 0.0
        at, top, bottom = positions[value], y(center + spread), y(center - spread)
        points.append(f"{at:.1f},{y(center)}")
        body += f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>'
        body += (
            f'<circle cx="{at:.1f}" cy="{y(center)}" r="3"><title>{in_markup(name)}, {value:g}:'
            f" {center:.3f} ± {spread:.3f}</title></circle>"
        )
    return f'<g class="{style}"><polyline class="curve" points="{" ".join(points)}"/>{body}</g>'


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
        body += f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{y(0)}" y2="{y(1)}"/>'
        body += f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(tick)}" y2="{y(tick)}"/>'
        body += f'<text x="{x(tick)}" y="{y(0) + 15}" text-anchor="middle">{tick:g}</text>'
        body += f'<text x="{x(0) - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
    middle = (y(0) + y(1)) / 2
    body += f'<text x="{(x(0) + x(1)) / 2}" y="{y(0) + 33}" text-anchor="middle">{titles[0]}</text>'
    turn = f'transform="rotate(-90 11 {middle})"'
    return body + f'<text x="11" y="{middle}" text-anchor="middle" {turn}>{titles[1]}</text>'


def _svg(title: str, body: str, *, height: float) -> str:
    return (
        f'<svg role="img" aria-label="{in_markup(title)}"'
        f' viewBox="0 0 {WIDTH} {height:g}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{in_markup(title)}</title>{body}</svg>"
    )
