"""From the grid of the feature map to the pixels of the image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dfkde.base import Array


def render(anomaly_map: Array, *, size: tuple[int, int], sigma: float = 4.0) -> Array:
    """Bring an anomaly map to the size of an image.

    Bilinear upsampling (pixel centres at half-integers, edges repeated), then Gaussian smoothing.
    Both are linear and separable, so the whole is one small matrix product per axis.

    Parameters
    ----------
    anomaly_map : array of shape (h, w)
        One value for each position of the feature map.
    size : tuple of int
        Height and width of the result, in pixels.
    sigma : float
        Standard deviation of the smoothing in pixels of an image 256 pixels high or wide; it
        grows in proportion with each side. 0 for none.

    Returns
    -------
    array of shape `size`
        float64.

    Examples
    --------
    >>> import numpy as np
    >>> render(np.ones((2, 2)), size=(4, 6)).round(12).tolist()[0]
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    h, w = anomaly_map.shape
    height, width = size
    return _operator(h, height, sigma) @ anomaly_map @ _operator(w, width, sigma).T


@lru_cache(maxsize=32)
def _operator(n: int, size: int, sigma: float) -> Array:
    """Give the matrix (size, n) that upsamples and smooths one axis."""
    centres = (np.arange(size) + 0.5) * n / size - 0.5
    upsample = np.stack([np.interp(centres, np.arange(n), row) for row in np.eye(n)], axis=1)
    operator = gaussian_filter1d(upsample, sigma * size / 256, axis=0) if sigma else upsample
    operator.setflags(write=False)
    return operator
