"""One look at a file's bytes: its digest, its size in pixels, and whether it is whole."""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from harness.data.images import decode_mask, displayed_size, opened
from harness.data.listing import DataError, stamp
from harness.system.files import DamagedError, open_regular

SYNTHETIC = b"synthetic image, made by python -m harness.data"
"""What every image file of a synthetic dataset holds."""

_JPEG_END = b"\xff\xd9"


class Inspection(NamedTuple):
    """What is known of a sound file.

    Attributes
    ----------
    digest : str
        SHA-256 of its bytes, hexadecimal.
    width, height : int
        In pixels, after the EXIF orientation; 0 for a file that is no image.
    defect_pixels : int
        Number of pixels above 0 in a mask; -1 where the file was not read as a mask.
    synthetic : bool
        Whether `harness.data.synthetic` made it.
    """

    digest: str
    width: int
    height: int
    defect_pixels: int
    synthetic: bool = False


def read_stamped(path: Path) -> tuple[str, bytes]:
    """Read a file with its `stamp`: that of the very file read, whatever its name leads to later.

    Raises
    ------
    DataError
        With the reason alone, if it cannot be read, is empty or larger than the memory.
    """
    try:
        with open_regular(path) as stream:
            # Before the bytes: a file written to meanwhile has another stamp the next time.
            status = os.fstat(stream.fileno())
            data = stream.read()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except DamagedError as error:
        raise DataError("is not a regular file") from error
    except MemoryError as error:
        raise DataError("is larger than the memory") from error
    if not data:
        raise DataError("is empty (0 bytes)")
    return stamp(status), data


def inspect_image(data: bytes) -> Inspection:
    """Digest an image file's bytes and check that they are whole, mostly without decoding them.

    A PNG is whole if the checksums of its chunks are right up to its end, a JPEG if it ends with
    the end-of-image marker; any other file is decoded.

    Raises
    ------
    DataError
        With the reason alone, if it is not a whole image.
    """
    with opened(data) as image:
        height, width = displayed_size(image, data)
        _check_whole(image, data)
    return Inspection(_digest(data), width, height, defect_pixels=-1, synthetic=SYNTHETIC in data)


def inspect_mask(data: bytes) -> Inspection:
    """Digest a ground truth mask's bytes and count its defect pixels.

    Raises
    ------
    DataError
        With the reason alone, if it cannot be decoded.
    """
    with opened(data) as image:
        mask = decode_mask(image)
    height, width = mask.shape
    defect_pixels = int(np.count_nonzero(mask))
    return Inspection(_digest(data), width, height, defect_pixels, synthetic=SYNTHETIC in data)


def fingerprint(seen: Mapping[str, Inspection]) -> str:
    """Digest the names and contents of files.

    Parameters
    ----------
    seen : mapping of str to Inspection
        The files of a category: images, masks, label files. Names are relative to the root.

    Returns
    -------
    str
        SHA-256, hexadecimal; it depends neither on the seed nor on the machine.
    """
    whole = hashlib.sha256()
    lines = (f"{_line(name)}\n{inspection.digest}\n" for name, inspection in seen.items())
    for line in sorted(lines):
        whole.update(line.encode())
    return whole.hexdigest()


def _line(name: str) -> str:
    """Write a name so that no other is written alike: it is one line, or escaped after a blank."""
    name = unicodedata.normalize("NFC", name)
    if "\n" not in name:
        return name
    return "\n" + name.replace("\\", "\\\\").replace("\n", "\\n")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_whole(image: Image.Image, data: bytes) -> None:
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
            again.verify()
    elif image.format != "JPEG" or not data.endswith(_JPEG_END):
        image.load()
