"""The anomalous pixels of one image, by connected region of its ground truth mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RegionPixels(NamedTuple):
    """The anomalous pixels of one image.

    Attributes
    ----------
    scores : ndarray of shape (n_pixels,)
        Their anomaly scores, in row-major order.
    regions : int32 ndarray of shape (n_pixels,)
        Which region each belongs to, from 0.
    sizes : int64 ndarray of shape (n_regions,)
        Number of pixels of each region.
    """

    scores: NDArray[np.floating]
    regions: NDArray[np.int32]
    sizes: NDArray[np.int64]


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
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    # Labelling the bounding box alone is several times faster than the whole frame.
    inside = np.ascontiguousarray(gt_mask[box])
    _, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
    regions = np.asarray(labels[inside] - 1, np.int32)
    return RegionPixels(anomaly_map[box][inside], regions, np.bincount(regions))
