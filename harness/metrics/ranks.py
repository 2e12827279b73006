"""Metrics from ranks: where the distinct anomalous scores stand among the normal ones.

AUROC, average precision, F1-max and AUPRO depend on nothing else, so that one sort of the normal
scores, taken in any number of chunks, yields all of them without a grid of thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.result import F1Max


@dataclass(frozen=True)
class Ranks:
    """The distinct scores of the anomalous items, ascending, and their ranks.

    Attributes
    ----------
    scores : ndarray of shape (n_distinct,)
        The distinct anomalous scores.
    anomalous : int64 ndarray of shape (n_distinct,)
        How many anomalous items have each score.
    below, tied : int64 ndarray of shape (n_distinct,)
        How many normal items score below it, and exactly at it.
    n_normal : int
        How many normal items there are in all.
    """

    scores: NDArray[np.floating]
    anomalous: NDArray[np.int64]
    below: NDArray[np.int64]
    tied: NDArray[np.int64]
    n_normal: int

    @property
    def n_anomalous(self) -> int:
        """How many anomalous items there are in all."""
        return int(self.anomalous.sum())

    @property
    def true_positives(self) -> NDArray[np.int64]:
        """Anomalous items that score at least each score."""
        return np.cumsum(self.anomalous[::-1])[::-1]

    @property
    def false_positives(self) -> NDArray[np.int64]:
        """Normal items that score at least each score."""
        return self.n_normal - self.below


def below_and_tied(
    ordered: NDArray[np.floating], scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the ordered values lie below each score, and how many equal it."""
    below = np.asarray(np.searchsorted(ordered, scores, "left"))
    return below, np.asarray(np.searchsorted(ordered, scores, "right")) - below


def auroc(ranks: Ranks) -> float:
    """Area under the ROC curve: the probability that anomalous outranks normal, ties half."""
    wins = np.dot(ranks.anomalous, 2 * ranks.below + ranks.tied)
    return int(wins) / (2 * ranks.n_anomalous * ranks.n_normal)


def average_precision(ranks: Ranks) -> float:
    """Sum of precision over the steps of recall, from the highest threshold down."""
    positives = ranks.true_positives
    precision = positives / (positives + ranks.false_positives)
    return float(np.dot(ranks.anomalous, precision)) / ranks.n_anomalous


def f1_max(ranks: Ranks) -> F1Max:
    """Give the best F1 over all thresholds.

    Only anomalous scores can be the best threshold: lowering it from one to the next merely
    admits false positives in between.
    """
    positives = ranks.true_positives
    f1 = 2 * positives / (positives + ranks.false_positives + ranks.n_anomalous)
    best = f1.size - 1 - int(np.argmax(f1[::-1]))
    return F1Max(float(f1[best]), float(ranks.scores[best]))


def area_to_limit(ranks: Ranks, steps: NDArray[np.float64], fpr_limit: float) -> float:
    """Area, over false positive rates up to a limit, of a curve that rises by `steps`.

    The group of items that share a score moves the false positive rate from `start` to `stop`
    while the curve rises on a straight line; from there on the rise counts in full.

    Parameters
    ----------
    ranks : Ranks
        Ranks of the distinct anomalous scores.
    steps : ndarray of shape (n_distinct,)
        How far the curve rises at each score; they sum to 1.
    fpr_limit : float
        Where the curve is cut, in (0, 1].

    Returns
    -------
    float
        The area divided by `fpr_limit`, in [0, 1].
    """
    stop = ranks.false_positives / ranks.n_normal
    start = (ranks.false_positives - ranks.tied) / ranks.n_normal
    full = fpr_limit - (start + stop) / 2
    cut = (stop > fpr_limit) & (start < fpr_limit)
    width = np.where(cut, stop - start, 1.0)
    area = np.where(cut, (fpr_limit - start) ** 2 / (2 * width), np.maximum(full, 0.0))
    return float(np.dot(steps, area)) / fpr_limit
