"""The anomalous pixels: split into connected regions by image, merged by score over all images."""

from __future__ import annotations

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

    def distinct(self, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
        """Give the distinct scores, ascending, in a dtype that holds each exactly."""
        scores = np.concatenate(self._scores, dtype=dtype)
        scores.sort()
        return scores[_starts(scores)]

    def tally(self, dtype: np.dtype[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count the pixels and the shares of regions at each distinct score.

        The gathered pixels are given up, for the sake of memory.

        Returns
        -------
        counts : int64 ndarray of shape (n_distinct,)
            How many pixels have each score.
        steps : ndarray of shape (n_distinct,)
            The share of the mean region that has each: how far the mean per-region overlap
            rises when the threshold falls to the score. They sum to 1.
        """
        scores, regions = np.concatenate(self._scores, dtype=dtype), np.concatenate(self._regions)
        self._scores.clear()
        self._regions.clear()
        shares = 1 / (len(self._sizes) * np.array(self._sizes))
        sort = _sort_packed if dtype == np.float32 else _sort
        ordered, rises = sort(scores, regions, shares)
        first = np.flatnonzero(_starts(ordered))
        counts = np.empty_like(first)
        np.subtract(first[1:], first[:-1], out=counts[:-1])
        counts[-1] = ordered.size - first[-1]
        return counts, np.add.reduceat(rises, first)


def _starts(ordered: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each ordered score is the first of those equal to it."""
    return np.append(True, ordered[1:] != ordered[:-1])


def _sort(
    scores: NDArray[np.floating], regions: NDArray[np.int32], shares: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Scores ascending, each with the share of its region; in any order among equal scores."""
    order = np.argsort(scores)
    return scores[order], shares[regions[order]]


def _sort_packed(
    scores: NDArray[np.floating], regions: NDArray[np.int32], shares: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Do the same for float32 scores, several times faster: values sort better than indices.

    The region rides along in the bits that widening to float64 leaves zero, where it is too small
    a change to reorder two distinct scores.
    """
    keys = scores.astype(np.float64).view(np.int64)
    keys |= regions
    keys.view(np.float64).sort()
    rises = shares[keys & _SPARE]
    keys &= ~_SPARE
    return keys.view(np.float64).astype(np.float32), rises
