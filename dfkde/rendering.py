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
        float64; one value where the map has only one.

    Examples
    --------
    >>> import numpy as np
    >>> render(np.array([[0.0, 1.0]]), size=(1, 4), sigma=0)
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    h, w = anomaly_map.shape
    height, width = size
    # The weights of a pixel sum to 1 up to rounding only, which would break a tie of all pixels.
    if (anomaly_map == anomaly_map[0, 0]).all():
        return np.full(size, anomaly_map[0, 0], dtype=np.float64)
    return _operator(h, height, sigma) @ anomaly_map @ _operator(w, width, sigma).T


@lru_cache(maxsize=32)
def _operator(n: int, size: int, sigma: float) -> Array:
    """Give the matrix (size, n) that upsamples and smooths one axis."""
    centres = (np.arange(size) + 0.5) * n / size - 0.5
    upsample = np.stack([np.interp(centres, np.arange(n), row) for row in np.eye(n)], axis=1)
    operator = gaussian_filter1d(upsample, sigma * size / 256, axis=0) if sigma else upsample
    operator.setflags(write=False)
    return operator
