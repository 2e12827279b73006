"""What an image file means: one definition for every format, by Pillow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.data.listing import DataError, shown, stamp
from harness.system.files import DamagedError, open_regular

# Recognised by its content, whatever its name; JPEG includes MPO. Pillow knows dozens more, one of
# which starts another program.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
# As many pixels as Pillow warns above: RGB of 256 MiB, of which decoding needs a few times that.
MOST_PIXELS = 2**30 // 12
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
# What Pillow warns of, and pixels do not depend on; as `warnings.filters` holds it.
_WARNINGS = (
    "(possibly )?corrupt EXIF data|Tag data larger than file|Tag offset too large"
    "|Truncated File Read|Metadata Warning, tag|Image appears to be a malformed MPO|Invalid APNG"
)
_SILENCED = ("ignore", re.compile(_WARNINGS, re.IGNORECASE), UserWarning, None, 0)
_SCAN, _MOST_SCANNED = b"\xff\xda", 20  # times as many pixels as an image may have
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF 6.0, section 15
# Where a PNG may state an orientation behind its pixels; the last is compressed, so unknown.
_LATE = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation", b"XML:com.adobe.xmp\0\1")
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
        _, data = read_stamped(Path(path))
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


def read_stamped(path: Path) -> tuple[str, bytes]:
    """Read a file with its `stamp`: that of the very file read, whatever its name leads to later.

    A `DataError` has the reason alone: whoever looks at a file names it.
    """
    try:
        with open_regular(path) as file:
            # Before the bytes: a file written to meanwhile has another stamp the next time.
            status = os.fstat(file.fileno())
            return stamp(status), file.read()
    except (OSError, MemoryError, DamagedError) as error:
        raise DataError(f"cannot be decoded ({_reason(error)})") from error


@contextlib.contextmanager
def opened(data: bytes, decoding: Decoding = USUAL) -> Iterator[Image.Image]:
    """Open an image file's bytes, and decode them in the block: the one place that does.

    Raises
    ------
    DataError
        With the reason alone, if they are of no format in `_FORMATS`; hold several images, more
        than 16 bits per channel or more than `max_pixels` pixels; or cannot be decoded.
    """
    if not data:
        raise DataError("is empty (0 bytes)")
    # Not by `catch_warnings`: images are decoded in threads, which share the filters.
    if _SILENCED not in warnings.filters:
        warnings.filterwarnings("ignore", _WARNINGS, UserWarning)
        warnings.filterwarnings("ignore", "", Image.DecompressionBombWarning)  # we refuse
    # Pillow's own limit is the process's, and not below what a dataset has been allowed.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, decoding.max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image, data, decoding.max_pixels)
            yield image
    except Exception as error:  # damage makes decoders raise anything
        raise DataError(f"cannot be decoded ({_reason(error)})") from error


def _check_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse, before a pixel is decoded, what is too large or has no single meaning."""
    sizes = [image.size]
    if image.format == "TIFF":  # a tile is decoded whole, however small the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        sizes.append((tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)))
    for width, height in sizes:
        if width * height > max_pixels:
            what = f"has {width}x{height} pixels, more than {max_pixels:,}"
            raise ValueError(f"{what} (dataset.max_pixels)")
    if image.format in ("JPEG", "MPO"):  # each scan visits every pixel
        pixels = data.count(_SCAN) * math.prod(image.size)
        if pixels > _MOST_SCANNED * max_pixels:
            rule = f"more than {_MOST_SCANNED * max_pixels:,}"
            raise ValueError(f"has {pixels:,} pixels in all its scans, {rule}")
    # Not by `n_frames`: that of a TIFF follows a chain as long as the file likes.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError("holds several images, not one")
    if image.mode in _TOO_DEEP:
        raise ValueError(f"has pixels of mode {image.mode}, not of 8 or 16 bits")


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
    """Return (H, W) of an opened image after its EXIF orientation, mostly without decoding it."""
    if image.format == "PNG" and any(mark in data for mark in _LATE):
        image.load()
    width, height = image.size
    # Orientations 5 to 8 swap the axes; of a TIFF, Pillow gives the size as displayed.
    turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (EXIF 2.3, tag 0x0112) of an opened image; 1 if none is read."""
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
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _reason(error: Exception) -> str:
    """Return why an image is unreadable, in one line without Pillow's object addresses."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, DamagedError):
        return "not a regular file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image: no PNG, JPEG, BMP, TIFF or WebP"
    if isinstance(error, Image.DecompressionBombError):  # twice its limit, or more
        return f"{shown(str(error))} (dataset.max_pixels)"
    return shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
