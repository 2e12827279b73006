"""Metrics from ranks: where the distinct anomalous scores lie among the normal ones.

AUROC, average precision, F1-max and AUPRO depend on nothing else, so that one sort of the normal
scores, in any number of chunks, yields all of them exactly. Counts are integers and sums are
numpy's own: no number depends on how many threads took part.

Pixels are streamed twice. The first pass gathers the anomalous ones, which are few in a benchmark.
The second sorts the normal ones in chunks and counts where the anomalous scores lie in each, so
that threads share the work and memory grows with the anomalous pixels only, by up to 80 bytes for
each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from harness.metrics.registry import F1Max, UndefinedMetricError

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

# Scores searched at a time, and equal values compared one by one: what took least time.
_BLOCK = 4096
_STEPS = 6

Mask = NDArray[np.bool_]
Map = NDArray[np.floating]
Regions = NDArray[np.int32]
Pair = tuple[str, Mask, Map]
"""An image's name, its ground truth mask (H, W) and its anomaly map (H, W)."""

CHUNK_PIXELS = 32_000_000
"""At most so many pixels are sorted at a time: fewer need less memory but more searching."""

# A float32 written as a float64 leaves its last 29 bits zero.
_SPARE = np.int64(2**29 - 1)


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


def count_pixels(
    pairs: Callable[[], Iterable[Pair]], *, threads: int = 1
) -> tuple[Ranks, NDArray[np.float64]]:
    """Rank the anomalous pixels of all images among the normal ones; `pairs` is called twice.

    Also returns how far the mean per-region overlap rises at each distinct score; the steps sum to
    1. Both are the same to the bit for any number of threads.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    first = _FirstPass()
    for pair in pairs():
        first.add(*pair)
    n_normal = first.n_normal()
    scores, regions = first.sorted()
    starts = np.append(True, scores[1:] != scores[:-1])
    distinct = scores[starts]
    below, tied = _count(_chunks(pairs(), n_normal, first.dtype), distinct, threads)
    # Only now, so that this does not need memory at the same time as a chunk.
    positions = np.flatnonzero(starts)
    counts = np.diff(positions, append=scores.size)
    shares = 1 / (len(first.sizes) * np.array(first.sizes))
    steps = np.add.reduceat(shares[regions], positions)
    return Ranks(distinct, counts, below, below + tied, n_normal), steps


def label_regions(gt_mask: Mask) -> tuple[tuple[slice, slice], Regions]:
    """Return the bounding box of a mask that is not empty, and in it the number of each region.

    Regions are 8-connected, as MVTec AD defines them, and numbered from 1; 0 is a normal pixel.
    """
    import cv2  # here, so that a run without masks never loads it

    rows = np.flatnonzero(gt_mask.any(axis=1))
    columns = np.flatnonzero(gt_mask[rows[0] : rows[-1] + 1].any(axis=0))
    # Labelling the bounding box alone is several times faster than the whole frame.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.ascontiguousarray(gt_mask[box]).view(np.uint8)
    _, labels = cv2.connectedComponents(inside, connectivity=8)
    return box, np.asarray(labels, np.int32)


class _FirstPass:
    """Checks each image and gathers its anomalous pixels, with the regions they belong to."""

    def __init__(self) -> None:
        self.dtype: np.dtype[np.floating] = np.dtype(np.float32)
        """Holds each score exactly."""
        self.sizes: list[int] = []
        """How many pixels each region has."""
        self._n_images = self._n_pixels = 0
        self._scores: list[Floats] = []
        self._regions: list[Regions] = []

    def add(self, name: str, gt_mask: Mask, anomaly_map: Map) -> None:
        _check_pair(name, gt_mask, anomaly_map)
        self._n_images += 1
        self._n_pixels += gt_mask.size
        self.dtype = np.result_type(self.dtype, anomaly_map.dtype)
        if not gt_mask.any():
            return
        box, labels = label_regions(gt_mask)
        inside = gt_mask[box]
        regions = labels[inside] - 1
        self._scores.append(anomaly_map[box][inside])
        self._regions.append(regions + len(self.sizes))
        self.sizes.extend(np.bincount(regions).tolist())

    def n_normal(self) -> int:
        """Return the number of normal pixels, if there are both kinds."""
        n_anomalous = sum(self.sizes)
        n_normal = self._n_pixels - n_anomalous
        for kind, number in (("anomalous", n_anomalous), ("normal", n_normal)):
            if number == 0:
                raise UndefinedMetricError(f"no {kind} pixel in {self._n_images} images")
        return n_normal

    def sorted(self) -> tuple[Floats, Regions]:
        """Return the scores ascending, each with its region; for memory's sake they go from here.

        Equal scores are in any order.
        """
        scores = np.concatenate(self._scores, dtype=self.dtype)
        regions = np.concatenate(self._regions)
        self._scores.clear()
        self._regions.clear()
        if self.dtype == np.float32:
            return _sorted_packed(scores, regions)
        order = np.argsort(scores)
        return scores[order], regions[order]


def _sorted_packed(scores: Floats, regions: Regions) -> tuple[Floats, Regions]:
    """Sort float32 scores in place, several times faster: values sort better than indices.

    The region is held in the bits that widening to float64 leaves zero, where it is too small a
    change to reorder two distinct scores.
    """
    keys = scores.astype(np.float64).view(np.int64)
    keys |= regions
    keys.view(np.float64).sort()
    np.bitwise_and(keys, _SPARE, out=regions, casting="unsafe")
    keys &= ~_SPARE
    scores[:] = keys.view(np.float64)
    return scores, regions


def _check_pair(name: str, gt_mask: Mask, anomaly_map: Map) -> None:
    if gt_mask.dtype != np.bool_:
        raise TypeError(f"gt_mask of {name} must be a boolean array, got dtype {gt_mask.dtype}")
    if anomaly_map.dtype.kind not in "fiub":
        raise TypeError(f"anomaly_map of {name} must be a real array, got {anomaly_map.dtype}")
    if gt_mask.ndim != 2 or gt_mask.shape != anomaly_map.shape:
        raise ValueError(
            f"gt_mask and anomaly_map of {name} must have one shape (H, W), "
            f"got {gt_mask.shape} and {anomaly_map.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(anomaly_map.sum()):  # several times faster, and then each is finite
            return
    wrong = np.argwhere(~np.isfinite(anomaly_map))
    if wrong.size:
        row, column = wrong[0].tolist()
        raise ValueError(
            f"anomaly_map of {name} must be finite, got {anomaly_map[row, column]} "
            f"at (row, column) {(row, column)}"
        )


def _normal_pixels(pairs: Iterable[Pair]) -> Iterator[Floats]:
    for _, gt_mask, anomaly_map in pairs:
        rows = np.flatnonzero(gt_mask.any(axis=1))
        box = slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 0)
        # Rows without a defect are taken whole, which is far faster than choosing pixels.
        yield anomaly_map[: box.start].ravel()
        yield anomaly_map[box][~gt_mask[box]]
        yield anomaly_map[box.stop :].ravel()


def _chunks(pairs: Iterable[Pair], n_pixels: int, dtype: np.dtype[np.floating]) -> Iterator[Floats]:
    """Fill one buffer over and over with the normal pixels of all images."""
    n_chunks = -(-n_pixels // CHUNK_PIXELS)
    buffer = np.empty(-(-n_pixels // n_chunks), dtype)
    filled = total = 0
    for pixels in _normal_pixels(pairs):
        total += pixels.size
        while pixels.size:
            now, pixels = np.split(pixels, [buffer.size - filled])
            np.copyto(buffer[filled : filled + now.size], now, casting="safe")
            filled += now.size
            if filled == buffer.size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
    if total != n_pixels:
        raise ValueError(
            "pairs must give the same images each time it is called, "
            f"got {n_pixels} normal pixels and then {total}"
        )


def _count(chunks: Iterable[Floats], scores: Floats, threads: int) -> tuple[Counts, Counts]:
    """Count the values of all chunks below each score, and those tied with it."""
    below, tied = np.zeros(scores.size, np.int64), np.zeros(scores.size, np.int64)
    # Each thread sorts its own part of a chunk, then searches all parts for its own scores.
    ranges = [np.array_split(array, threads) for array in (scores, below, tied)]
    with ThreadPoolExecutor(threads) as pool:
        for chunk in chunks:
            parts = np.array_split(chunk, threads)
            list(pool.map(np.ndarray.sort, parts))
            for part in parts:
                _check_ends(part)
                list(pool.map(partial(add_counts, part), *ranges))
    return below, tied


def _check_ends(ordered: Floats) -> None:
    """Refuse values that were finite in the first pass only: they are sorted to either end."""
    if ordered.size and not np.isfinite(ordered[[0, -1]]).all():
        raise ValueError(
            "pairs must give the same images each time it is called, got a map that is not finite"
        )
