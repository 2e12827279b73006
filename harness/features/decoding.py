"""Decoding an image: as `harness.data.read_image` does, and faster where that is the same."""

from __future__ import annotations

import os
import re
import struct
import zlib
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.images import excess, image_of

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
# The chunks that leave pixels what they are, in the only order that both decoders read alike.
_PLAIN = re.compile(
    rb"IHDR(?:gAMA|cHRM|sRGB|pHYs|tIME|bKGD|sBIT|tEXt|iTXt)*(?:IDAT)+(?:tIME|tEXt|iTXt)*IEND"
)
# Of another length they are an error to Pillow, which libspng does not see.
_LENGTHS = {b"IHDR": 13, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
# Text that says nothing of the pixels: Pillow takes an orientation, for one, from other keywords.
_TEXTS = {
    b"tEXt": re.compile(
        rb"(?i:Author|Comment|Copyright|Creation Time|Description|Disclaimer|Software|Source|Title"
        rb"|Warning|date:\w+)\0"
    ),
    b"iTXt": re.compile(rb"XML:com\.adobe\.xmp\0\0(?!.*Orientation)", re.DOTALL),
}
# Above these Pillow suspects a bomb: of pixels, and of text. Let it.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
_MOST_BYTES = 2**26
_HAS_SPNG = find_spec("imagecodecs") is not None


def decode(data: bytes, name: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode an image to RGB, (H, W, 3) uint8; bit for bit `harness.data.read_image`.

    A plain PNG of 8 bits is decoded by libspng, where imagecodecs is installed; everything else,
    damaged files included, by `harness.data.images.image_of`.

    Parameters
    ----------
    data : bytes
        The whole content of an image file.
    name : path
        The file, for messages.

    Raises
    ------
    DataError
        If it is not an image that can be decoded.
    """
    image = _decode_png(data) if _HAS_SPNG and is_plain_png(data) else None
    return image_of(data, name) if image is None else image


def is_plain_png(data: bytes) -> bool:
    """Tell whether a file is a sound PNG of 8 bits, grey or RGB, that means its pixels alone."""
    if data[:8] != _SIGNATURE or len(data) > _MOST_BYTES or excess(data):
        return False
    chunks = _sound_chunks(data)
    if not _PLAIN.fullmatch(b"".join(kind for kind, _ in chunks)):
        return False
    return all(map(_is_plain, *zip(*chunks, strict=True)))


def _sound_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Return kind and content of each chunk of a PNG file; none at all where one is damaged."""
    chunks, position, whole = [], len(_SIGNATURE), memoryview(data)
    while position < len(data):
        if position + 12 > len(data):
            return []
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        checksum = int.from_bytes(whole[end : end + 4], "big")
        if end + 4 > len(data) or zlib.crc32(whole[position + 4 : end]) != checksum:
            return []
        chunks.append((kind, whole[position + 8 : end]))
        position = end + 4
    return chunks


def _is_plain(kind: bytes, content: memoryview) -> bool:
    if len(content) != _LENGTHS.get(kind, len(content)):
        return False
    if kind == b"IHDR":
        width, height, depth, colour = struct.unpack_from(">IIBB", content)
        return depth == 8 and colour in (_GREY, _RGB) and width * height <= _MOST_PIXELS
    return kind not in _TEXTS or _TEXTS[kind].match(content) is not None


def _decode_png(data: bytes) -> NDArray[np.uint8] | None:
    import imagecodecs

    try:
        image = imagecodecs.spng_decode(data)
    except imagecodecs.SpngError:  # a damaged file: `image_of` names what is wrong
        return None
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return image
