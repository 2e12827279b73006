"""The resolution at which maps and ground truth masks are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evaluation_size(
    native: tuple[int, int], pixel_resolution: int | None = None
) -> tuple[int, int]:
    """Height and width at which the pixel metrics of one image are taken.

    Parameters
    ----------
    native : tuple of int
        Height and width of the ground truth mask as published.
    pixel_resolution : int, optional
        Side of a square in pixels, to compare with those who resize; by default the native size.

    Returns
    -------
    tuple of int
        Height and width.

    Raises
    ------
    ValueError
        If `pixel_resolution` is not positive.

    Examples
    --------
    >>> evaluation_size((600, 800)), evaluation_size((600, 800), 256)
    ((600, 800), (256, 256))
    """
    if pixel_resolution is None:
        return native
    if pixel_resolution < 1:
        raise ValueError(
            f"pixel_resolution must be at least 1 or None (native), got {pixel_resolution}"
        )
    return pixel_resolution, pixel_resolution


def resize_mask(gt_mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ground truth mask at another size, by the nearest pixel centre.

    Parameters
    ----------
    gt_mask : bool ndarray of shape (H, W)
        The mask. It is returned itself where it has that size already.
    size : tuple of int
        Height and width.

    Returns
    -------
    bool ndarray of shape `size`

    Notes
    -----
    The same pixels as Pillow's nearest-neighbour resize.

    Examples
    --------
    >>> import numpy as np
    >>> resize_mask(np.eye(4, dtype=bool), (2, 2))
    array([[ True, False],
           [False,  True]])
    """
    if gt_mask.shape == size:
        return gt_mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, gt_mask.shape, strict=True)
    )
    return gt_mask[rows[:, None], columns]
