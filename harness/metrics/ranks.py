"""Metrics from ranks: where the distinct anomalous scores lie among the normal ones.

AUROC, average precision, F1-max and AUPRO depend on nothing else, so that one sort of the normal
scores, in any number of chunks, yields all of them exactly. Counts are integers and sums are
numpy's own: no number depends on how many threads took part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.metrics.registry import F1Max

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

# Scores searched at a time, and equal values compared one by one: what took least time.
_BLOCK = 4096
_STEPS = 6


@dataclass(frozen=True)
class Ranks:
    """The distinct anomalous scores, ascending, each with its numbers of items.

    `anomalous` counts the anomalous items at each score, `below` and `up_to` the normal items
    below it and at most at it: they differ by the tied ones.
    """

    scores: Floats
    anomalous: Counts
    below: Counts
    up_to: Counts
    n_normal: int

    @cached_property
    def n_anomalous(self) -> int:
        """How many anomalous items there are in all."""
        return int(self.anomalous.sum())

    @cached_property
    def true_positives(self) -> Counts:
        """How many anomalous items score at least each score."""
        return np.cumsum(self.anomalous[::-1])[::-1]

    @cached_property
    def positives(self) -> Counts:
        """How many items of either kind score at least each score."""
        return self.true_positives + (self.n_normal - self.below)


def auroc(ranks: Ranks) -> float:
    """Area under the ROC curve: the probability that anomalous outranks normal, ties half."""
    wins = np.dot(ranks.anomalous, ranks.below + ranks.up_to)
    return int(wins) / (2 * ranks.n_anomalous * ranks.n_normal)


def average_precision(ranks: Ranks) -> float:
    """Sum of precision over the steps of recall, from the highest threshold down."""
    precision = ranks.true_positives / ranks.positives
    return float(np.sum(ranks.anomalous * precision)) / ranks.n_anomalous


def f1_max(ranks: Ranks) -> F1Max:
    """Return the best F1 over all thresholds.

    Only an anomalous score can be the best threshold: lowering it from one to the next merely
    admits false positives in between.
    """
    half_f1 = ranks.true_positives / (ranks.positives + ranks.n_anomalous)
    best = half_f1.size - 1 - int(np.argmax(half_f1[::-1]))
    return F1Max(2 * float(half_f1[best]), float(ranks.scores[best]))


def area_to_limit(ranks: Ranks, steps: NDArray[np.float64], fpr_limit: float) -> float:
    """Area under a curve over false positive rates up to a limit in (0, 1], divided by it.

    The curve rises by `steps`, which sum to 1, at the scores. While the threshold passes one score,
    the false positive rate moves by the normal items tied at it and the curve rises on a straight
    line; from there on the rise counts in full.
    """
    limit = fpr_limit * ranks.n_normal  # rates are in normal items here, divided at the end
    first = int(np.searchsorted(ranks.up_to, math.floor(ranks.n_normal - limit), "right"))
    if first == steps.size:
        return 0.0
    # Only the lowest score inside the limit can have ties on both sides of it.
    inside = limit - float(ranks.n_normal - ranks.up_to[first])
    width = float(ranks.up_to[first] - ranks.below[first])
    cut = inside - width / 2 if width <= inside else inside**2 / (2 * width)
    twice_mean = 2 * ranks.n_normal - ranks.below[first + 1 :] - ranks.up_to[first + 1 :]
    full = np.sum(steps[first + 1 :] * (limit - twice_mean / 2))
    return float(steps[first] * cut + full) / limit


def add_counts(ordered: Floats, scores: Floats, below: Counts, tied: Counts) -> None:
    """Add in place how many of the ascending values lie below each distinct score, or tie with it.

    `ordered` may be empty; `below` and `tied` hold the totals over all chunks counted so far.
    """
    starts = np.asarray(np.searchsorted(ordered, scores[::_BLOCK], "left"))
    stops = np.append(starts, ordered.size)[1:]
    # A block of neighbouring scores is searched in its own short stretch, which stays in cache.
    for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        block = slice(index * _BLOCK, (index + 1) * _BLOCK)
        below[block] += start
        if start < stop:
            _add_within(ordered[start:stop], scores[block], below[block], tied[block])


def _add_within(ordered: Floats, scores: Floats, below: Counts, tied: Counts) -> None:
    """Do the same for one block; there is at least one value."""
    left = np.searchsorted(ordered, scores, "left")
    below += left
    ties = np.flatnonzero(ordered.take(left, mode="clip") == scores)
    left, values = left[ties], scores[ties]
    right = left.copy()
    # Most tied scores equal a few neighbouring values only. The others are searched, and so are
    # those that equal the last value, which is met at every step.
    for _ in range(_STEPS):
        right += ordered.take(right, mode="clip") == values
    more = np.flatnonzero(right - left == _STEPS)
    right[more] = np.searchsorted(ordered, values[more], "right")
    tied[ties] += right - left
