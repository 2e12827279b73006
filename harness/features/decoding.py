"""Decoding an image file: as `harness.data.read_image` does, and faster where that is the same."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data import read_image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
# Chunks that change what the pixels mean to `read_image`: transparency, orientation, animation.
_MEANINGFUL = {b"tRNS", b"eXIf", b"acTL"}
# Above this Pillow suspects a decompression bomb; let it.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
_HAS_SPNG = find_spec("imagecodecs") is not None


def decode(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to RGB, (H, W, 3) uint8; bit for bit `harness.data.read_image`.

    A plain PNG of 8 bits is decoded by libspng, where imagecodecs is installed; everything else,
    damaged files included, by `read_image`.
    """
    if _HAS_SPNG and path.suffix.lower() == ".png":
        data = path.read_bytes()
        if is_plain_png(data):
            image = _decode_png(data)
            if image is not None:
                return image
    return read_image(path)


def is_plain_png(data: bytes) -> bool:
    """Tell whether a file is a PNG of 8 bits, grey or RGB, that means its pixels alone."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return False
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if depth != 8 or colour not in (_GREY, _RGB) or width * height > _MOST_PIXELS:
        return False
    return not _MEANINGFUL & _chunks(data)


def _chunks(data: bytes) -> set[bytes]:
    """Return the types of the chunks of a PNG file."""
    types, position = set(), len(_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        types.add(kind)
        position += 12 + length
    return types


def _decode_png(data: bytes) -> NDArray[np.uint8] | None:
    import imagecodecs

    try:
        image = imagecodecs.spng_decode(data)
    except imagecodecs.SpngError:  # a damaged file: `read_image` names what is wrong
        return None
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return image
