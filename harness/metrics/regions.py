"""The anomalous pixels: split into connected regions by image, merged by score over all images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
