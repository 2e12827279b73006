"""The one definition of a network's input: decode, resize, crop, scale to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.crop import region
from harness.data.images import read_file
from harness.features.decoding import decode

RESIZES = ("pil", "float_antialias")


def read_input(
    path: Path, *, image_size: int, resize: str = "pil", center_crop: int | None = None
) -> NDArray[np.float32]:
    """Read one image as the backbone sees it, before normalisation.

    Parameters
    ----------
    path : Path
        An image file.
    image_size : int
        Height and width in pixels to which the image is resized; the aspect ratio is not kept.
    resize : {'pil', 'float_antialias'}
        Pillow's antialiased bilinear filter, on the 8-bit image (rounded to 8 bits again) or on
        the float image (not rounded).
    center_crop : int, optional
        Side in pixels of the central square of the resized image that is kept; all by default.

    Returns
    -------
    ndarray of shape (3, H, W), float32
        RGB in [0, 1]; H and W are `center_crop`, or `image_size` without it.

    Raises
    ------
    DataError
        If the image cannot be decoded.
    """
    return scale(read_pixels(path, image_size=image_size, resize=resize, center_crop=center_crop))


def read_pixels(
    path: Path,
    digest: str | None = None,
    *,
    image_size: int,
    resize: str = "pil",
    center_crop: int | None = None,
) -> NDArray:
    """Read one image up to its last step, `scale`: with `pil` a quarter of the input's bytes.

    Parameters, errors
        As `read_input`. `digest` is the SHA-256 that the file must have, as for
        `harness.data.images.read_file`: the bytes decoded are those that were checked.

    Returns
    -------
    ndarray of shape (3, H, W), uint8 for `pil`, float32 for `float_antialias`
        RGB from 0 to 255.
    """
    # No name for the decoded image: kept until the end, it costs 2 ms in fresh memory.
    resized = _RESIZERS[resize](decode(read_file(path, digest), path), (image_size, image_size))
    seen = resized[region(resized.shape[:2], image_size=image_size, center_crop=center_crop)]
    return np.ascontiguousarray(seen.transpose(2, 0, 1))


def scale(pixels: NDArray) -> NDArray[np.float32]:
    """Scale RGB from 0 to 255 of any shape to [0, 1]."""
    return np.divide(pixels, 255, dtype=np.float32)


def _resize_pil(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _resize_float(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    channels = [
        Image.fromarray(image[..., k].astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        for k in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


_Resizer = Callable[[NDArray[np.uint8], tuple[int, int]], NDArray]

_RESIZERS: dict[str, _Resizer] = {"pil": _resize_pil, "float_antialias": _resize_float}
