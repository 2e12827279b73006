"""An anomaly map drawn over its image: in colours, and with contours."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from dfkde import render

# Of the full colour.
_OPACITY = 0.6
# Cyan: neither of the scale nor of many things.
_CONTOUR = (0, 255, 255)
# Pixels of an image's shorter side for each pixel of a contour's width.
_FINE = 300


def overlay(
    image: NDArray[np.uint8], anomaly_map: NDArray[np.float64], *, scale: tuple[float, float]
) -> NDArray[np.uint8]:
    """Draw an anomaly map (h, w) in colours over its RGB image (H, W, 3).

    `scale` holds two values of the map, as `Predictor.map_scale` has them: up to the first, the
    image is left as it is; from there to the second, colours go from yellow to red.
    """
    heat = _heat(render(anomaly_map, size=image.shape[:2]), *scale)
    colour = colormaps["autumn_r"](heat)[..., :3] * 255
    opacity = _OPACITY * np.sqrt(heat)[..., None]
    return np.round(image * (1 - opacity) + colour * opacity).astype(np.uint8)


def with_contours(
    image: NDArray[np.uint8], anomaly_map: NDArray[np.float64], *, threshold: float
) -> NDArray[np.uint8]:
    """Outline in an RGB image (H, W, 3) where its anomaly map (h, w) exceeds a threshold."""
    above = render(anomaly_map, size=image.shape[:2]) > threshold
    found, _ = cv2.findContours(above.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    width = max(1, round(min(image.shape[:2]) / _FINE))
    cv2.drawContours(drawn, found, -1, _CONTOUR, width)
    return drawn


def _heat(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Scale to [0, 1]."""
    if high <= low:  # all positions alike: whatever lies above is as hot as can be
        return (values > low).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)
