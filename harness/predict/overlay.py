"""An anomaly map drawn over its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dfkde import render

OPACITY = 0.6
"""Of the hottest colour."""
FULL = 100.0
"""The factor of the training images' reach at which the colour is full."""


def overlay(
    image: NDArray[np.uint8], anomaly_map: NDArray[np.float64], *, map_values: Sequence[float]
) -> NDArray[np.uint8]:
    """Draw an anomaly map over its image.

    The colours mean the same for every image of a detector, for only the training images set
    them: what their maps reach is transparent, and the colour is full at a hundred times that.
    Between, the scale is logarithmic, as a defect may exceed the training images a little or
    by orders of magnitude.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        RGB.
    anomaly_map : ndarray of shape (h, w)
        On the grid of the features.
    map_values : sequence of float
        Median and maximum over the training images' maps.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        RGB.
    """
    from matplotlib import colormaps

    heat = _heat(render(anomaly_map, size=image.shape[:2]), *map_values)
    colour = colormaps["autumn_r"](heat)[..., :3] * 255
    opacity = OPACITY * np.sqrt(heat)[..., None]
    return np.round(image * (1 - opacity) + colour * opacity).astype(np.uint8)


def _heat(values: NDArray[np.float64], median: float, maximum: float) -> NDArray[np.float64]:
    """Scale to [0, 1] the factor by which the training images' reach is exceeded."""
    reach = maximum - median
    if reach <= 0:  # all positions alike: whatever lies above is as hot as can be
        return (values > maximum).astype(np.float64)
    factor = np.maximum((values - median) / reach, 1)
    return np.minimum(np.log(factor) / np.log(FULL), 1)
