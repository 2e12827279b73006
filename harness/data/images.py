"""What an image file means: one definition for every format, by Pillow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from harness.data.listing import DataError, shown
from harness.system.files import DamagedError, open_regular

# Recognised by its content, whatever its name; JPEG includes MPO. Pillow knows dozens more, one of
# which starts another program.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
# As many pixels as Pillow warns above: RGB of 256 MiB, of which decoding needs a few times that.
MOST_PIXELS = 2**30 // 12
# Of a JPEG, each of which may visit every pixel: libtiff's limit. Encoders write a dozen.
_MOST_SCANS = 100
_MOST_SCANNED = 20  # times as many pixels as an image may have, in all scans together
_SCAN, _END = 0xDA, 0xD9
# What a segment follows: no byte of a scan (FF 00), no restart within one, no padding.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
# Of what else Pillow visits each, one by one: many times what cameras and programs write.
_MOST_SEGMENTS = 500  # APPn and comments, of 64 KiB: an ICC profile has up to 255
_MOST_SEGMENTS_IN_ALL = 50_000  # with tables, and up to the end
_MOST_EXIF_SEGMENTS = 16  # copied together again with each; one is the rule
_MOST_FILLING = 2**18  # bytes of padding, and of tables, which take a few thousand
_MOST_CHUNKS = 500  # ImageMagick writes a text for each EXIF tag
_MOST_PACKED = 100  # of up to a MiB, of which Pillow counts some
_MOST_PIXEL_CHUNKS = 100_000  # libpng writes 8 KiB into each
_MOST_TAGS, _MOST_VALUES = 1000, 250_000  # a palette has up to 196,608 values
_MOST_EXIF = 2**20  # bytes; EXIF 2.3 allows 64 KiB
_MOST_RLE_PIXELS, _MOST_RLE_BYTES = 2**24, 2**23  # of a BMP, which Pillow decodes in Python
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that a size follows
# The markers whose segments Pillow reads; all others are padding to it.
_SEGMENT = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xda-\xef\xfe]")
_TIFF, _BIG_TIFF = ("H", "I", "HHII"), ("Q", "Q", "HHQQ")
_BYTES = (1, 2, 7)  # the types of TIFF tags (TIFF 6.0, section 2) that stay bytes
_INTEGERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
# What each EXIF orientation (EXIF 2.3, 4.6.4 A) asks for; 1 and any other number for nothing.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow warns of and we refuse, or what its pixels do not depend on.
_WARNINGS = (
    "(possibly )?corrupt EXIF data|Tag data larger than file|Tag offset too large"
    "|Truncated File Read|Metadata Warning, tag|Image appears to be a malformed MPO|Invalid APNG"
)
# As `warnings.filters` holds it.
_SILENCED = (
    ("ignore", None, Image.DecompressionBombWarning, None, 0),
    ("ignore", re.compile(_WARNINGS, re.IGNORECASE), UserWarning, None, 0),
)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_TOO_DEEP = ("I", "F")


class Decoding(NamedTuple):
    """How a dataset's files are decoded, where its settings say so."""

    max_pixels: int = MOST_PIXELS
    """An image with more is refused."""
    bits: int = 16
    """So many of 16 bits are used; of these the upper 8 are kept."""


USUAL = Decoding()


def read_image(
    path: str | os.PathLike[str], digest: str | None = None, decoding: Decoding = USUAL
) -> NDArray[np.uint8]:
    """Read an image as RGB.

    The EXIF orientation is applied where it can be read, grey is repeated over the channels, a
    palette is looked up, an alpha channel is dropped, and of 16 bits the upper 8 are kept.

    Parameters
    ----------
    path : path
        A PNG, JPEG, BMP, TIFF or WebP file.
    digest : str, optional
        SHA-256 that the file must have; see `read_file`.
    decoding : Decoding, optional
        What the dataset's settings say of its files.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        RGB.

    Raises
    ------
    DataError
        If the file is not an image that can be decoded, or has another digest.
    """
    return image_of(read_file(path, digest), path, decoding)


def read_mask(
    path: str | os.PathLike[str], digest: str | None = None, decoding: Decoding = USUAL
) -> NDArray[np.bool_]:
    """Read a ground truth mask: every pixel whose value is above 0 is a defect.

    A palette is looked up first, and an alpha channel does not count.

    Parameters
    ----------
    path : path
        A PNG, JPEG, BMP, TIFF or WebP file.
    digest : str, optional
        SHA-256 that the file must have; see `read_file`.
    decoding : Decoding, optional
        What the dataset's settings say of its files.

    Returns
    -------
    ndarray of shape (H, W), bool
        True where the defect is.

    Raises
    ------
    DataError
        If the file is not an image that can be decoded, or has another digest.
    """
    data = read_file(path, digest)
    with _naming(path), opened(data, decoding) as image:
        return mask_values(image) > 0


def read_file(path: str | os.PathLike[str], digest: str | None = None) -> bytes:
    """Read an image file once: whoever decodes these bytes decodes those of the listed SHA-256."""
    with _naming(path):
        data = _bytes_of(Path(path))
    if digest is not None and (found := hashlib.sha256(data).hexdigest()) != digest:
        raise DataError(
            f"{shown(str(path))}: changed while the job ran (its SHA-256 was {digest:.12}, is"
            f" {found:.12}); the same command runs the job again"
        )
    return data


def image_of(
    data: bytes, name: str | os.PathLike[str], decoding: Decoding = USUAL
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file, named in errors, as `read_image` does."""
    with _naming(name), opened(data, decoding) as image:
        return _rgb(displayed(image), decoding.bits)


@contextlib.contextmanager
def _naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Let the error of reading or decoding a file name it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{shown(str(name))}: {error}") from error


def _bytes_of(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except DamagedError as error:
        raise DataError("cannot be decoded (not a regular file)") from error
    except (OSError, MemoryError) as error:
        raise DataError(f"cannot be decoded ({_reason(error)})") from error


@contextlib.contextmanager
def opened(data: bytes, decoding: Decoding = USUAL) -> Iterator[Image.Image]:
    """Open an image file's bytes, and decode them in the block: the one place that does.

    Raises
    ------
    DataError
        With the reason alone, if they are of no format in `_FORMATS`; hold several images, more
        than 16 bits per channel, more than `max_pixels` pixels or what `excess` names; or cannot
        be decoded.
    """
    _silence()
    # Pillow's own limit is the process's, and not below what a dataset has been allowed.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, decoding.max_pixels)
    try:
        if rule := excess(data, decoding.max_pixels):
            raise ValueError(rule)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image, len(data), decoding.max_pixels)
            yield image
    except Exception as error:  # damage makes decoders raise anything
        raise DataError(f"cannot be decoded ({_reason(error)})") from error


def _silence() -> None:
    """Ignore Pillow's warnings of what we tell ourselves, in the whole process.

    Not by `catch_warnings`: images are decoded in threads, which share the filters.
    """
    for action, message, category, module, line in _SILENCED:
        if (action, message, category, module, line) not in warnings.filters:
            pattern = "" if message is None else message.pattern
            warnings.filterwarnings("ignore", message=pattern, category=category)


Counts = Iterator[tuple[int, str, int]]
"""How many, of what, and at most: counted up, for the first that are too many to end it."""


def excess(data: bytes, max_pixels: int = MOST_PIXELS) -> str | None:
    """Say of what a file has more than any program writes, so that decoding may take minutes."""
    counts = _COUNTS.get(data[:2])
    for found, what, most in counts(data, max_pixels) if counts else ():
        if found > most:  # and so counting stops
            return f"has {found:,} {what}, more than {most:,}"
    return None


def _jpeg_counts(data: bytes, max_pixels: int) -> Counts:
    segments, exif, filling, pixels, place, kind = 0, 0, 0, 0, 2, 0
    while place < len(data) and kind != _SCAN:
        end = min(len(data), place + _MOST_FILLING + 2)
        found = _SEGMENT.search(data, place, end)
        start = found.start() if found else end
        kind = data[start + 1] if found else 0
        length = 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big")) if found else 0
        is_text = kind >= 0xE0
        segments += is_text
        exif += is_text and data.startswith(b"Exif\0\0", start + 4)
        filling += start - place + (0 if is_text else length)
        yield segments, "or more segments of metadata", _MOST_SEGMENTS
        yield exif, "or more segments of EXIF data", _MOST_EXIF_SEGMENTS
        yield filling, "or more bytes of padding and tables before its pixels", _MOST_FILLING
        place = start + length
        if kind in _FRAMES:
            sides = (data[start + k : start + k + 2] for k in (5, 7))
            pixels = max(pixels, math.prod(int.from_bytes(side, "big") for side in sides))
    scans = data.count(bytes((0xFF, _SCAN)))
    most = _MOST_SCANNED * max(MOST_PIXELS, max_pixels)
    if scans > _MOST_SCANS or scans * pixels > most:  # few files have so many alike
        yield from _scan_counts(data, pixels, most)


def _scan_counts(data: bytes, pixels: int, most: int) -> Counts:
    scans, segments, place = 0, 0, 2
    while (found := _MARKER.search(data, place)) and (kind := data[found.end() - 1]) != _END:
        scans += kind == _SCAN
        segments += 1
        yield segments, "or more segments", _MOST_SEGMENTS_IN_ALL
        length = data[found.end() : found.end() + 2]
        place = found.end() + int.from_bytes(length, "big")
    yield scans, "scans", _MOST_SCANS
    yield scans * pixels, "pixels in all its scans", most


def _png_counts(data: bytes, _: int) -> Counts:
    pixels = others = packed = 0
    place, kind = 8, b""
    while place < len(data) and kind != b"IEND":
        kind = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        pixels += kind == b"IDAT"
        others += kind != b"IDAT"
        packed += kind in (b"iCCP", b"zTXt", b"iTXt")
        yield others, "or more chunks beside its pixels", _MOST_CHUNKS
        yield packed, "or more compressed texts and profiles", _MOST_PACKED
        yield pixels, "or more chunks of pixels", _MOST_PIXEL_CHUNKS


def _tiff_counts(data: bytes, _: int) -> Counts:
    """Count in the directories that Pillow reads: the first, and those that it names."""
    if len(data) < 16 or data[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return
    order, big = "<" if data[:2] == b"II" else ">", data[2:3] == b"+"
    length, word, entry = (struct.Struct(order + f) for f in (_BIG_TIFF if big else _TIFF))
    tags, values, places = 0, 0, [*word.unpack_from(data, word.size)]
    while places:
        place = places.pop()
        with contextlib.suppress(struct.error):  # the end of the file
            (n_tags,) = length.unpack_from(data, place)
            tags += n_tags
            yield tags, "or more tags", _MOST_TAGS
            first = place + length.size
            for place in range(first, first + n_tags * entry.size, entry.size):
                tag, kind, count, value = entry.unpack_from(data, place)
                values += count * (kind not in _BYTES)
                yield values, "or more values in its tags", _MOST_VALUES
                if tag in _DIRECTORIES and kind in _INTEGERS:
                    number = struct.Struct(order + _INTEGERS[kind])
                    inside = number.size <= word.size
                    places += number.unpack_from(data, place + 4 + word.size if inside else value)


_COUNTS = {
    b"\xff\xd8": _jpeg_counts,
    b"\x89P": _png_counts,
    b"II": _tiff_counts,
    b"MM": _tiff_counts,
}


def _check_header(image: Image.Image, n_bytes: int, max_pixels: int) -> None:
    """Refuse, before a pixel is decoded, what is too large or has no single meaning."""
    _check_area(*image.size, max_pixels)
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())):
        _check_runs(math.prod(image.size), n_bytes)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        _check_tiles(image.size, *tile, max_pixels)
    # Not by `n_frames`: that of a TIFF follows a chain as long as the file likes.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError("holds several images, not one")
    if image.mode in _TOO_DEEP:
        raise ValueError(f"has pixels of mode {image.mode}, not of 8 or 16 bits")


def _check_runs(n_pixels: int, n_bytes: int) -> None:
    for found, what, most in (
        (n_pixels, "pixels", _MOST_RLE_PIXELS),
        (n_bytes, "bytes", _MOST_RLE_BYTES),
    ):
        if found > most:
            raise ValueError(f"has {found:,} {what} by run lengths, more than {most:,}")


def _check_tiles(size: tuple[int, int], width: object, height: object, max_pixels: int) -> None:
    """Refuse tiles that are too large, or too large together: they may reach beyond the image."""
    if not isinstance(width, int) or not isinstance(height, int):
        raise ValueError("has a tile whose size is no number")
    _check_area(width, height, max_pixels)
    n_tiles = math.prod(-(-a // max(b, 1)) for a, b in zip(size, (width, height), strict=True))
    if n_tiles * width * height > 2 * max_pixels:  # those at the edges count in full
        raise ValueError(f"has {n_tiles:,} tiles of {width}x{height} pixels, which are too many")


def _check_area(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        what = f"has {width}x{height} pixels, more than {max_pixels:,}"
        raise ValueError(f"{what} (dataset.max_pixels)")


def _rgb(image: Image.Image, bits: int = USUAL.bits) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if (brightest := int(values.max())) >> bits:
            raise ValueError(f"has the value {brightest}, more than dataset.bits={bits} hold")
        grey = (values >> (bits - 8)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P":
        # By way of RGBA: Pillow warns about palettes with transparency otherwise.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def mask_values(image: Image.Image) -> NDArray[np.uint8 | np.uint16]:
    """Decode an opened mask to its values (H, W), of several channels the largest."""
    image = displayed(image)
    if image.mode in ("1", "L", *_SIXTEEN_BIT):
        values = np.asarray(image)
        return values.astype(np.uint8) if image.mode == "1" else values
    return _rgb(image).max(axis=2)


def displayed_size(image: Image.Image, data: bytes) -> tuple[int, int]:
    """Return (H, W) of an opened image after its EXIF orientation; see `orientation`."""
    width, height = image.size
    # Orientations 5 to 8 swap the axes; of a TIFF, Pillow gives the size as displayed.
    turned = image.format != "TIFF" and 5 <= orientation(image, data) <= 8
    return (width, height) if turned else (height, width)


def orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation (EXIF 2.3, tag 0x0112) of a file, mostly without decoding pixels.

    It is 1 for upright, also where it means nothing or cannot be read; up to 8.
    """
    if image.format == "PNG" and "exif" not in image.info and _oriented_behind_pixels(data):
        image.load()
    return _stated_orientation(image)


def _stated_orientation(image: Image.Image) -> int:
    """Return the orientation that has been read of an image, loaded or not."""
    exif = image.info.get("exif") or image.info.get("Raw profile type exif") or ""
    if len(exif) > _MOST_EXIF:
        raise ValueError(f"has {len(exif):,} bytes of EXIF data, more than {_MOST_EXIF:,}")
    try:
        # The base class's method: that of a PNG decodes it in search of metadata at its end.
        stated = Image.Image.getexif(image).get(0x0112, 1)
        return int(stated) if stated in _TURNS else 1
    except MemoryError:
        raise
    except Exception:  # its pixels are sound, whatever is wrong with what is said of them
        return 1


def displayed(image: Image.Image) -> Image.Image:
    """Decode an opened image and apply its EXIF orientation."""
    image.load()
    turn = _TURNS.get(_stated_orientation(image))
    return image if turn is None else image.transpose(turn)


def _oriented_behind_pixels(data: bytes) -> bool:
    """Tell whether a PNG may state an orientation behind its pixels: EXIF, or XMP."""
    marks = (
        b"eXIf",
        b"Raw profile type exif",
        b"tiff:Orientation",
        b"XML:com.adobe.xmp\0\1",  # compressed, so unknown
    )
    start = data.find(b"IDAT")
    return any(data.find(mark, start) >= 0 for mark in marks)


def _reason(error: Exception) -> str:
    """Return why an image is unreadable, in one line without Pillow's object addresses."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image: no PNG, JPEG, BMP, TIFF or WebP"
    if isinstance(error, Image.DecompressionBombError):  # twice its limit, or more
        return f"{shown(str(error))} (dataset.max_pixels)"
    if "MAX_TEXT" in str(error):  # Pillow names its constants
        one, all_ = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        return (
            f"has a text or profile that unpacks to over {one:,} bytes, or texts of over {all_:,}"
        )
    return shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
