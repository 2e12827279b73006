"""The one definition of a network's input: decode, resize, crop, scale to [0, 1]."""

from __future__ import annotations

import os
import re
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.images import MOST_PIXELS, USUAL, Decoding, image_of, read_file
from harness.features.settings import region

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
# Above it Pillow suspects a bomb of text, as above `MOST_PIXELS` one of pixels. Let it.
_MOST_BYTES = 2**26
_HAS_SPNG = find_spec("imagecodecs") is not None


def read_input(
    path: Path,
    digest: str | None = None,
    *,
    image_size: int,
    resize: str = "pil",
    center_crop: int | None = None,
    decoding: Decoding = USUAL,
) -> NDArray[np.float32]:
    """Read one image as the backbone sees it, before normalisation: RGB in [0, 1], (3, H, W).

    It is resized to a square of `image_size` pixels by Pillow's antialiased bilinear filter, on the
    8-bit image (`pil`, rounded to 8 bits again) or on the float image (`float_antialias`, not
    rounded). H and W are `center_crop`, or `image_size` without it. `digest` is the SHA-256 that
    the file must have, as for `harness.data.images.read_file`.
    """
    # No name for the decoded image: kept until the end, it costs 2 ms in fresh memory.
    resized = _resized(
        decode(read_file(path, digest), path, decoding), image_size, rounded=resize == "pil"
    )
    seen = resized[region(resized.shape[:2], image_size=image_size, center_crop=center_crop)]
    return np.divide(np.ascontiguousarray(seen.transpose(2, 0, 1)), 255, dtype=np.float32)


def decode(
    data: bytes, name: str | os.PathLike[str], decoding: Decoding = USUAL
) -> NDArray[np.uint8]:
    """Decode an image to RGB, (H, W, 3) uint8; bit for bit `harness.data.read_image`.

    A plain PNG of 8 bits is decoded by libspng, where imagecodecs is installed; everything else,
    damaged files included, by `harness.data.images.image_of`, whose messages name the file.
    """
    image = _decode_png(data) if _HAS_SPNG and is_plain_png(data) else None
    return image_of(data, name, decoding) if image is None else image


def is_plain_png(data: bytes) -> bool:
    """Tell whether a file is a sound PNG of 8 bits, grey or RGB, that means its pixels alone."""
    if data[:8] != _SIGNATURE or len(data) > _MOST_BYTES:
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
        return depth == 8 and colour in (_GREY, _RGB) and width * height <= MOST_PIXELS
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


def _resized(image: NDArray[np.uint8], side: int, *, rounded: bool) -> NDArray:
    size, how = (side, side), Image.Resampling.BILINEAR
    if rounded:
        return np.asarray(Image.fromarray(image).resize(size, how))
    channels = (Image.fromarray(image[..., k].astype(np.float32)) for k in range(3))
    return np.stack([np.asarray(channel.resize(size, how)) for channel in channels], axis=-1)
