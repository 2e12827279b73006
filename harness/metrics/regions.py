"""The anomalous pixels: split into connected regions by image, merged by score over all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

# A float32 written as a float64 leaves its last 29 bits zero.
_SPARE = np.int64(2**29 - 1)


class RegionPixels(NamedTuple):
    """The anomalous pixels of one image.

    Attributes
    ----------
    scores : ndarray of shape (n_pixels,)
        Their anomaly scores.
    regions : int ndarray of shape (n_pixels,)
        Which region each belongs to, from 0.
    sizes : int64 ndarray of shape (n_regions,)
        Number of pixels of each region.
    """

    scores: NDArray[np.floating]
    regions: NDArray[np.int32]
    sizes: NDArray[np.int64]


class AnomalousScores(NamedTuple):
    """The distinct scores of the anomalous pixels of all images, ascending.

    Attributes
    ----------
    scores : ndarray of shape (n_distinct,)
        The scores.
    counts : int64 ndarray of shape (n_distinct,)
        How many pixels have each.
    steps : ndarray of shape (n_distinct,)
        The share of the mean region that has each: how far the mean per-region overlap rises
        when the threshold falls to the score. They sum to 1.
    """

    scores: NDArray[np.floating]
    counts: NDArray[np.int64]
    steps: NDArray[np.float64]


def region_pixels(gt_mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating]) -> RegionPixels:
    """Split the anomalous pixels of one image into 8-connected regions, as MVTec AD defines them.

    Parameters
    ----------
    gt_mask : bool ndarray of shape (H, W)
        Ground truth.
    anomaly_map : ndarray of shape (H, W)
        Anomaly scores.

    Returns
    -------
    RegionPixels
        Empty arrays where the image is normal.
    """
    rows = np.flatnonzero(gt_mask.any(axis=1))
    if rows.size == 0:
        nothing = np.empty(0, np.int32)
        return RegionPixels(np.empty(0, anomaly_map.dtype), nothing, nothing.astype(np.int64))
    import cv2  # here, so that a run without masks never loads it

    columns = np.flatnonzero(gt_mask[rows[0] : rows[-1] + 1].any(axis=0))
    # Labelling the bounding box alone is several times faster than the whole frame.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.ascontiguousarray(gt_mask[box])
    _, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
    regions = np.asarray(labels[inside] - 1, np.int32)
    return RegionPixels(anomaly_map[box][inside], regions, np.bincount(regions))


def merge_by_score(images: Sequence[RegionPixels], dtype: DTypeLike) -> AnomalousScores:
    """Merge the anomalous pixels of all images by their scores.

    Parameters
    ----------
    images : sequence of RegionPixels
        With at least one pixel among them.
    dtype : dtype
        Of the scores: one that holds those of every image exactly.
    """
    scores = np.concatenate([image.scores for image in images], dtype=dtype)
    sizes = np.concatenate([image.sizes for image in images])
    offsets = np.cumsum([0] + [image.sizes.size for image in images[:-1]], dtype=np.int32)
    regions = np.concatenate(
        [image.regions + offset for image, offset in zip(images, offsets, strict=True)]
    )
    ordered, regions = _sort_with_regions(scores, regions)
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    steps = np.add.reduceat((1 / (sizes.size * sizes))[regions], first)
    return AnomalousScores(ordered[first], np.diff(first, append=ordered.size), steps)


def _sort_with_regions(
    scores: NDArray[np.floating], regions: NDArray[np.signedinteger]
) -> tuple[NDArray[np.floating], NDArray[np.signedinteger]]:
    """Scores ascending, each with its region; in any order among equal scores."""
    if scores.dtype != np.float32:
        order = np.argsort(scores)
        return scores[order], regions[order]
    # Sorting values is several times faster than sorting indices, so the region rides along in
    # the bits that widening leaves zero: too small a change to reorder two distinct scores.
    keys = scores.astype(np.float64).view(np.int64)
    keys |= regions
    keys.view(np.float64).sort()
    regions = keys & _SPARE
    keys ^= regions
    return keys.view(np.float64).astype(np.float32), regions
