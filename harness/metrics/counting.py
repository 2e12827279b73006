"""Ranks of the anomalous pixels among the normal ones, over streamed images.

The first pass gathers the anomalous pixels, which are few in a benchmark. The second sorts the
normal pixels in chunks and adds up where the anomalous scores stand in each, so that threads
share the work and memory grows with the anomalous pixels only, by up to 80 bytes for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.ranks import Ranks, add_counts
from harness.metrics.registry import UndefinedMetricError

# A float32 written as a float64 leaves its last 29 bits zero.
_SPARE = np.int64(2**29 - 1)


def label_regions(gt_mask: NDArray[np.bool_]) -> tuple[tuple[slice, slice], NDArray[np.int32]]:
    """Find the 8-connected regions of a mask, as MVTec AD defines them.

    Parameters
    ----------
    gt_mask : bool ndarray of shape (H, W)
        Ground truth with at least one anomalous pixel.

    Returns
    -------
    box : tuple of slice
        The bounding box of the anomalous pixels: rows and columns.
    labels : int32 ndarray of the box's shape
        0 for a normal pixel, else the number of its region, from 1.
    """
    import cv2  # here, so that a run without masks never loads it

    rows = np.flatnonzero(gt_mask.any(axis=1))
    columns = np.flatnonzero(gt_mask[rows[0] : rows[-1] + 1].any(axis=0))
    # Labelling the bounding box alone is several times faster than the whole frame.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.ascontiguousarray(gt_mask[box]).view(np.uint8)
    _, labels = cv2.connectedComponents(inside, connectivity=8)
    return box, np.asarray(labels, np.int32)


class AnomalousPixels:
    """Gathers the anomalous pixels image by image, with the regions they belong to."""

    def __init__(self) -> None:
        self.n_pixels = 0
        self._scores: list[NDArray[np.floating]] = []
        self._regions: list[NDArray[np.int32]] = []
        self._sizes: list[int] = []

    def add(self, gt_mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating]) -> None:
        """Add those of one image: its ground truth and its anomaly scores, both (H, W)."""
        if not gt_mask.any():
            return
        box, labels = label_regions(gt_mask)
        inside = gt_mask[box]
        regions = labels[inside] - 1
        self.n_pixels += regions.size
        self._scores.append(anomaly_map[box][inside])
        self._regions.append(regions + len(self._sizes))
        self._sizes.extend(np.bincount(regions).tolist())

    def merged(self, dtype: np.dtype[np.floating]) -> Merged:
        """Sort the gathered pixels by score, in a dtype that holds each score exactly.

        They are given up, for the sake of memory.
        """
        scores, regions = np.concatenate(self._scores, dtype=dtype), np.concatenate(self._regions)
        self._scores.clear()
        self._regions.clear()
        sort = _sort_packed if dtype == np.float32 else _sort
        return Merged(*sort(scores, regions), np.array(self._sizes))


@dataclass(frozen=True)
class Merged:
    """The anomalous pixels of all images, ascending by score.

    Attributes
    ----------
    scores : ndarray of shape (n_anomalous,)
        The score of each.
    regions : int32 ndarray of shape (n_anomalous,)
        The number of the region of each, from 0.
    sizes : int ndarray of shape (n_regions,)
        How many pixels each region has.
    """

    scores: NDArray[np.floating]
    regions: NDArray[np.int32]
    sizes: NDArray[np.int64]

    def distinct(self) -> NDArray[np.floating]:
        """Give the distinct scores, ascending."""
        return self.scores[self._starts()]

    def tally(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count the pixels and the shares of regions at each distinct score.

        Returns
        -------
        counts : int64 ndarray of shape (n_distinct,)
            How many pixels have each score.
        steps : ndarray of shape (n_distinct,)
            The share of the mean region that has each: how far the mean per-region overlap
            rises when the threshold falls to the score. They sum to 1.
        """
        first = np.flatnonzero(self._starts())
        counts = np.empty_like(first)
        np.subtract(first[1:], first[:-1], out=counts[:-1])
        counts[-1] = self.scores.size - first[-1]
        shares = 1 / (len(self.sizes) * self.sizes)
        return counts, np.add.reduceat(shares[self.regions], first)

    def _starts(self) -> NDArray[np.bool_]:
        """Whether each score is the first of those equal to it."""
        return np.append(True, self.scores[1:] != self.scores[:-1])


def _sort(
    scores: NDArray[np.floating], regions: NDArray[np.int32]
) -> tuple[NDArray[np.floating], NDArray[np.int32]]:
    """Scores ascending, each with its region; in any order among equal scores."""
    order = np.argsort(scores)
    return scores[order], regions[order]


def _sort_packed(
    scores: NDArray[np.floating], regions: NDArray[np.int32]
) -> tuple[NDArray[np.floating], NDArray[np.int32]]:
    """Do the same for float32 scores, several times faster: values sort better than indices.

    The region rides along in the bits that widening to float64 leaves zero, where it is too small
    a change to reorder two distinct scores.
    """
    keys = scores.astype(np.float64).view(np.int64)
    keys |= regions
    keys.view(np.float64).sort()
    np.bitwise_and(keys, _SPARE, out=regions, casting="unsafe")
    keys &= ~_SPARE
    scores[:] = keys.view(np.float64)
    return scores, regions


Pair = tuple[str, NDArray[np.bool_], NDArray[np.floating]]
"""An image's name, its ground truth mask (H, W) and its anomaly map (H, W)."""

CHUNK_PIXELS = 32_000_000
"""At most so many pixels are sorted at a time: fewer need less memory but more searching."""


class PixelRanks(NamedTuple):
    """What every pixel metric is computed from.

    Attributes
    ----------
    ranks : Ranks
        Of the distinct scores of anomalous pixels among all normal pixels.
    steps : ndarray of shape (n_distinct,)
        How far the mean per-region overlap rises at each score; they sum to 1.
    """

    ranks: Ranks
    steps: NDArray[np.float64]


def count_pixels(pairs: Callable[[], Iterable[Pair]], *, threads: int = 1) -> PixelRanks:
    """Rank the anomalous pixels among the normal ones.

    Parameters
    ----------
    pairs : callable
        As in `pixel_metrics`.
    threads : int
        Number of threads that sort and search.

    Returns
    -------
    PixelRanks
        The same, bit for bit, for any number of threads.

    Raises
    ------
    ValueError, TypeError
        If `threads` is not positive, a mask or a map is not as it must be, or the second pass
        gives another number of normal pixels than the first, or some that are not finite.
    UndefinedMetricError
        If there is no normal or no anomalous pixel.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    first = _FirstPass()
    for pair in pairs():
        first.add(*pair)
    n_normal = first.n_normal
    merged = first.anomalous.merged(first.dtype)
    scores = merged.distinct()
    chunks = _chunks(_normal_pixels(pairs()), n_normal, first.dtype)
    below, up_to = _count(chunks, scores, threads)
    # Only now, so that this does not need memory at the same time as a chunk.
    counts, steps = merged.tally()
    return PixelRanks(Ranks(scores, counts, below, up_to, n_normal), steps)


def _normal_pixels(pairs: Iterable[Pair]) -> Iterator[NDArray[np.floating]]:
    for _, gt_mask, anomaly_map in pairs:
        rows = np.flatnonzero(gt_mask.any(axis=1))
        box = slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 0)
        # Rows without a defect are taken whole, which is far faster than choosing pixels.
        yield anomaly_map[: box.start].ravel()
        yield anomaly_map[box][~gt_mask[box]]
        yield anomaly_map[box.stop :].ravel()


@dataclass
class _FirstPass:
    """What is known after each image has been seen once."""

    n_images: int = 0
    n_pixels: int = 0
    dtype: np.dtype[np.floating] = field(default_factory=lambda: np.dtype(np.float32))
    anomalous: AnomalousPixels = field(default_factory=AnomalousPixels)

    def add(self, name: str, gt_mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating]) -> None:
        """Check one image and gather its anomalous pixels."""
        _check_pair(name, gt_mask, anomaly_map)
        self.n_images += 1
        self.n_pixels += gt_mask.size
        self.dtype = np.result_type(self.dtype, anomaly_map.dtype)
        self.anomalous.add(gt_mask, anomaly_map)

    @property
    def n_normal(self) -> int:
        """The number of normal pixels, if there are both kinds."""
        n_normal = self.n_pixels - self.anomalous.n_pixels
        for kind, number in (("anomalous", self.anomalous.n_pixels), ("normal", n_normal)):
            if number == 0:
                raise UndefinedMetricError(f"no {kind} pixel in {self.n_images} images")
        return n_normal


def _check_pair(name: str, gt_mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating]) -> None:
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


def _chunks(
    parts: Iterable[NDArray[np.floating]], n_pixels: int, dtype: np.dtype[np.floating]
) -> Iterator[NDArray[np.floating]]:
    """Fill one buffer over and over with the pixels of all parts."""
    n_chunks = -(-n_pixels // CHUNK_PIXELS)
    buffer = np.empty(-(-n_pixels // n_chunks), dtype)
    filled = total = 0
    for pixels in parts:
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


def _count(
    chunks: Iterable[NDArray[np.floating]], scores: NDArray[np.floating], threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many values of all chunks lie below each score, and at most at it."""
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
    tied += below
    return below, tied


def _check_ends(ordered: NDArray[np.floating]) -> None:
    """Refuse what was finite in the first pass and is no more: it is sorted to either end."""
    if ordered.size and not np.isfinite(ordered[[0, -1]]).all():
        raise ValueError(
            "pairs must give the same images each time it is called, got a map that is not finite"
        )
