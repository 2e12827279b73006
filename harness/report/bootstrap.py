"""Stratified bootstrap of the image AUROC, from per-image scores.

Normal and anomalous test images are resampled apart, each as often as there are, so that every
resample has the test set's composition. Intervals are bias-corrected and accelerated (BCa):
Efron, "Better bootstrap confidence intervals", JASA 82 (1987), equations 2.3 and 6.6; near an
AUROC of 1 plain percentiles are too short by far.

An AUROC is a share of pairs of images, and so of a resample a product of matrices. The numbers
drawn are integers, their sums exact, and the limits picked are order statistics: the same bits on
every machine and under every version of NumPy, which SciPy's bootstrap does not promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.record import ImageScore
from harness.report.declaration import RESAMPLES

CONFIDENCE = 0.95
"""Two-sided coverage of every interval."""
SEED = 42
"""Of the resampling; it has nothing to do with the seed of a run."""

Floats = NDArray[np.float64]
Limits = tuple[float, float]

_BLOCK = 1 << 20
"""Counts held at a time, so that memory does not grow with the number of resamples."""
_DIGITS = 12
"""Of a probability: more than any number of resamples can resolve."""


class Images(NamedTuple):
    """The scores of one category's test images."""

    normal: Floats
    anomalous: Floats


class Resampled(NamedTuple):
    """A metric of the test set, of its resamples, and of the test set without each image."""

    value: float
    resamples: Floats
    left_out: tuple[Floats, ...]  # per stratum, without each one of its images


def images_of(scores: Sequence[ImageScore]) -> Images:
    """Part a category's scores; raises `ValueError` below 2 images of a kind: no spread."""
    parts = [[image.score for image in scores if image.anomalous == kind] for kind in (False, True)]
    for kind, part in zip(Images._fields, parts, strict=True):
        if len(part) < 2:
            raise ValueError(f"an interval needs at least 2 {kind} images, got {len(part)}")
    return Images(*(np.array(part, np.float64) for part in parts))


def resample(images: Images, *, key: str, n: int = RESAMPLES) -> Resampled:
    """Resample the AUROC of one category.

    The key names the random stream: categories must have different ones, or their errors would go
    together; models compared on the same images must have the same one.
    """
    normal, anomalous = images.normal[:, None], images.anomalous[None]
    # 2 for each pair in order, 1 for a tie: whole numbers, whose sums are exact in any order.
    won = (anomalous > normal) + (anomalous >= normal).astype(np.float64)
    total, pairs = won.sum(), 2 * won.size
    blocks = [
        ((_counts(i, len(won)) @ won) * _counts(j, len(won.T))).sum(axis=1)
        for i, j in drawn(images, key=key, n=n)
    ]
    left_out = tuple(
        (total - won.sum(axis=1 - axis)) / (pairs - 2 * won.shape[1 - axis]) for axis in (0, 1)
    )
    return Resampled(float(total / pairs), np.concatenate(blocks) / pairs, left_out)


def drawn(images: Images, *, key: str, n: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Draw the images of `n` resamples, in blocks: indices of normal and of anomalous ones."""
    digest = hashlib.sha256(f"{SEED} {key}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(digest[:16], "big"))
    step = max(1, _BLOCK // sum(map(len, images)))
    for start in range(0, n, step):
        lines = min(step, n - start)
        yield _draw(bits, lines, len(images.normal)), _draw(bits, lines, len(images.anomalous))


def _draw(bits: np.random.PCG64, lines: int, below: int) -> NDArray[np.int64]:
    """Draw indices from a generator's raw bits, which NumPy promises never to change.

    Scaling 32 bits favours some indices by less than `below` / 2**32: beneath notice.
    """
    raw = bits.random_raw(lines * below) >> np.uint64(32)
    indices = (raw * np.uint64(below)) >> np.uint64(32)
    return indices.astype(np.int64).reshape(lines, below)


def _counts(indices: NDArray[np.int64], images: int) -> Floats:
    """Count how often each line has each image."""
    lines = len(indices)
    cells = indices + np.arange(lines)[:, None] * images
    counts = np.bincount(cells.ravel(), minlength=lines * images)
    return counts.reshape(lines, images).astype(np.float64)


def mean_of(cells: Sequence[Resampled]) -> Resampled:
    """Average a metric over categories, each resampled on its own."""
    count = len(cells)
    value = sum(cell.value for cell in cells) / count
    resamples = sum((cell.resamples for cell in cells[1:]), start=cells[0].resamples) / count
    left_out = tuple(
        value + (stratum - cell.value) / count for cell in cells for stratum in cell.left_out
    )
    return Resampled(value, resamples, left_out)


def difference_of(one: Resampled, other: Resampled) -> Resampled:
    """Return how much higher the second is, of two metrics of the same resampled images."""
    left_out = tuple(b - a for a, b in zip(one.left_out, other.left_out, strict=True))
    return Resampled(other.value - one.value, other.resamples - one.resamples, left_out)


def interval(of: Resampled, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Compute the BCa interval of a metric; None where no resample differs from any other.

    The upper limit is the lower one of the distribution turned around, so that two models that
    change places give the same interval with the other sign.
    """
    ordered = np.sort(of.resamples)
    if ordered[0] == ordered[-1]:
        return None
    (bias, acceleration), n = _correction(of), len(ordered)
    z = NormalDist().inv_cdf((1 - confidence) / 2)
    levels = np.array([_level(z, bias, acceleration), _level(z, -bias, -acceleration)])
    # Order statistics, without interpolation.
    low, high = (np.ceil(levels * n) - 1).clip(0, n - 1).astype(int)
    return float(ordered[low]), float(ordered[-1 - high])


def p_value(of: Resampled) -> float:
    """Compute the two-sided p value of 0: the smallest alpha whose BCa interval excludes 0.

    `interval` is inverted in closed form: Efron & Tibshirani, "An Introduction to the Bootstrap"
    (1993), equation 14.10, solved for alpha; Efron & Narasimhan, "The automatic construction of
    bootstrap confidence intervals", JCGS 29 (2020), on such levels. So p < 0.05 exactly where the
    95 % interval excludes 0.
    """
    n = len(of.resamples)
    if of.resamples.min() == of.resamples.max():
        return 1.0
    bias, acceleration = _correction(of)
    not_above, not_below = int((of.resamples <= 0).sum()), int((of.resamples >= 0).sum())
    tail = min(_tail(not_above / n, bias, acceleration), _tail(not_below / n, -bias, -acceleration))
    return min(max(2 * tail, 2 / (n + 1)), 1.0)


def _correction(of: Resampled) -> tuple[float, float]:
    """Compute bias and acceleration."""
    n = len(of.resamples)
    below = (np.sum(of.resamples < of.value) + np.sum(of.resamples <= of.value)) / 2
    # Half a resample away from either end, so that the correction stays finite.
    share = min(max(float(below), 0.5), n - 0.5) / n
    return NormalDist().inv_cdf(share), _acceleration(of.left_out)


def _level(z: float, bias: float, acceleration: float) -> float:
    """Find at which level of the resamples the limit lies that has the normal quantile z."""
    shift = bias + z
    # 0.025 through the normal distribution and back would be a little more or less.
    return round(NormalDist().cdf(bias + shift / (1 - acceleration * shift)), _DIGITS)


def _tail(share: float, bias: float, acceleration: float) -> float:
    """Find the probability whose `_level` is a share of the resamples."""
    if share in (0, 1):
        return share
    shift = NormalDist().inv_cdf(share) - bias
    straight = 1 + acceleration * shift
    if straight <= 0:  # no level is as far away as that
        return float(shift > 0)
    return round(NormalDist().cdf(shift / straight - bias), _DIGITS)


def _acceleration(left_out: Sequence[Floats]) -> float:
    """Compute a sixth of the skewness of the influence of single images, over all strata."""
    influence = [(len(s) - 1) / len(s) * (s.mean() - s) for s in left_out]
    square = sum(float((u**2).sum()) for u in influence)
    return sum(float((u**3).sum()) for u in influence) / (6 * square**1.5) if square else 0.0


def cell_limits(resampled: Resampled | None) -> Limits | None:
    """Compute the interval of a job's image AUROC; None without enough images, or spread.

    Where the scores separate the test images perfectly, no resample differs from any other, and the
    bootstrap says nothing. But min(m, n) disjoint pairs of a normal and an anomalous image were all
    in order, each with probability AUROC, so that with 95 % confidence AUROC >= 0.05 ** (1 / min).
    """
    if resampled is None or resampled.value < 1:
        return None if resampled is None else interval(resampled)
    return float((1 - CONFIDENCE) ** (1 / min(map(len, resampled.left_out)))), 1.0


def average_limits(cells: Sequence[Resampled | None]) -> Limits | None:
    """Compute the interval of the average, images resampled within each category."""
    known = [cell for cell in cells if cell is not None]
    return interval(mean_of(known)) if known and len(known) == len(cells) else None
