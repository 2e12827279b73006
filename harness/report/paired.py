"""Two tables of one dataset compared on the same test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics.registry import METRICS
from harness.record import ImageScore
from harness.report import bootstrap
from harness.report.bootstrap import Resampled
from harness.report.grid import ABSENT, Grid, number, signed
from harness.report.markdown import markdown
from harness.report.protocol import INTERVAL_METRIC, RESAMPLES
from harness.report.results import TableResults
from harness.report.table import ReportError, Table

Held = tuple[Table, TableResults]


@dataclass(frozen=True)
class Pair:
    """One category under two models.

    Attributes
    ----------
    category : str
        The category.
    first, second, difference : Resampled
        The image AUROC under each, and second minus first, over the same resamples.
    """

    category: str
    first: Resampled
    second: Resampled
    difference: Resampled


def compare(first: Held, second: Held) -> str:
    """Compare two tables on the categories that both have, as Markdown.

    Parameters
    ----------
    first, second : tuple of Table and TableResults
        The tables.

    Raises
    ------
    ReportError
        The tables share no finished category, or were not tested on the same images.
    """
    pairs = pair_up(first, second)
    names = (first[0].name, second[0].name)
    body = []
    raw = [two_sided(pair.difference.resamples) for pair in pairs]
    for pair, p, corrected in zip(pairs, raw, holm(raw), strict=True):
        body.append((pair.category, *_cells(pair), _p(p), _p(corrected)))
    mean = Pair(
        "Average",
        bootstrap.mean_of([pair.first for pair in pairs]),
        bootstrap.mean_of([pair.second for pair in pairs]),
        bootstrap.mean_of([pair.difference for pair in pairs]),
    )
    overall = _p(two_sided(mean.difference.resamples))
    header = ("Category", *names, "difference", "95 % interval", "p", "p, Holm")
    grid = Grid(header, tuple(body), ("Average", *_cells(mean), overall, ABSENT))
    return f"## {METRICS[INTERVAL_METRIC].display}\n\n" + markdown(grid, _caption(pairs))


def pair_up(first: Held, second: Held) -> list[Pair]:
    """Resample the image AUROC of the categories that both tables have, by the same images."""
    dataset = first[0].choice("dataset")
    if second[0].choice("dataset") != dataset:
        raise ReportError(f"{first[0].name} and {second[0].name} are of different datasets")
    shared = [c for c in first[0].categories if c in first[1].scores and c in second[1].scores]
    if not shared:
        raise ReportError(f"{first[0].name} and {second[0].name} share no finished category")
    return [
        _pair(f"{dataset}/{category}", (first[1].scores[category], second[1].scores[category]))
        for category in shared
    ]


def _pair(key: str, scores: tuple[Sequence[ImageScore], Sequence[ImageScore]]) -> Pair:
    ordered = [sorted(images, key=lambda image: image.image) for images in scores]
    tested = [[(image.image, image.anomalous) for image in images] for images in ordered]
    if tested[0] != tested[1]:
        raise ReportError(f"the test images of {key} are not the same in both tables")
    one, other = (
        bootstrap.resample(
            bootstrap.images_of([i.anomalous for i in images], [i.score for i in images]),
            bootstrap.auroc,
            key=key,
        )
        for images in ordered
    )
    difference = Resampled(
        other.value - one.value,
        other.resamples - one.resamples,
        tuple(b - a for a, b in zip(one.left_out, other.left_out, strict=True)),
    )
    return Pair(key.partition("/")[2], one, other, difference)


def two_sided(differences: bootstrap.Floats) -> float:
    """Compute the bootstrap p value of "no difference".

    Twice the share of resamples on the rarer side of zero, the test set itself counted as one
    resample, so that it is never 0.
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number: Holm, Scandinavian Journal of Statistics 6 (1979).

    Examples
    --------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected, floor = [0.0] * len(p), 0.0
    for done, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - done) * p[index]))
        corrected[index] = floor
    return corrected


def wilcoxon(differences: Sequence[float]) -> float:
    """Compute Wilcoxon's signed-rank p value over categories; 1 where no category differs."""
    from scipy import stats

    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def _cells(pair: Pair) -> tuple[str, ...]:
    values = [number(pair.first.value), number(pair.second.value)]
    best = max(values)
    shown = [f"**{v}**" if v == best and values[0] != values[1] else v for v in values]
    span = bootstrap.interval(pair.difference)
    ends = " to ".join(signed(end) for end in span) if span else ABSENT
    return (*shown, signed(pair.difference.value), ends)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _caption(pairs: Sequence[Pair]) -> str:
    p = wilcoxon([pair.difference.value for pair in pairs])
    return (
        "Difference: second minus first. Intervals and p: paired BCa bootstrap,"
        f" {RESAMPLES:,} resamples of the test images, the same ones for both, normal and"
        " anomalous apart. p, Holm: corrected for the number of categories. Over"
        f" categories, Wilcoxon's signed-rank test: p = {number(p)}, n = {len(pairs)}."
    )
