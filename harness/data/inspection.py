"""One look at a file's bytes: its digest, its size in pixels, and whether it is whole.

Inspections are cached in a JSON file beside the data, `<root>/.dfkde/<category>.json`, or in the
user's cache folder where the data may not be written to: a file is read again only when it changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import sysconfig
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.images import USUAL, Decoding, displayed_size, mask_values, opened
from harness.data.listing import DataError, shown, stamp
from harness.system.files import DamagedError, open_regular, read_json, write_json

SYNTHETIC = b"synthetic image, made by python -m harness.data"
"""What every image file of a synthetic dataset holds."""

_JPEG_END = b"\xff\xd9"
_FEW_LEVELS = 16  # above 0: of the labels of kinds of defects, say
_VERSION = 5
"""Raised by whatever changes which files count as sound, or what is seen of them."""

log = logging.getLogger(__name__)


class Inspection(NamedTuple):
    """The SHA-256 of a sound file, and what else was seen of it.

    The size is that after the EXIF orientation, 0 for a file that is no image. `defect_pixels` is
    the number of pixels above 0 in a mask, -1 where the file was not read as a mask. Of a mask of
    many grey values, `solid_pixels` are those from half of its largest value on; of others they
    are the same. A mask is `inverted` if most of it and of its border is above 0, but not all.
    `brightest` is the largest value of an image of 16 bits, else -1.
    """

    digest: str
    width: int
    height: int
    defect_pixels: int
    synthetic: bool = False
    solid_pixels: int = -1
    inverted: bool = False
    brightest: int = -1


class InspectionCache:
    """The cached inspections of one category, each with the `stamp` of the file that was read.

    The time of a status change in it tells two files apart that were swapped by renaming, which
    archives of whole-second times would hide.
    """

    def __init__(self, root: Path, category: str) -> None:
        self._key = f"inspections of {category}"
        self._places = _places(root, category)
        loaded = [_load(place, self._key) for place in self._places]
        self._entries = [entries for entries in loaded if entries]
        for place, entries in zip(self._places, loaded, strict=True):
            if entries is None and not self._entries:
                log.warning("%s is damaged; the files are read again", shown(str(place)))

    def find(self, key: str, stamp: str) -> Inspection | None:
        """Return the inspection of a file, or None if the file is new or changed."""
        for entries in self._entries:
            entry = entries.get(key, "")
            if entry.startswith(f"{stamp} "):
                digest, *numbers = entry.removeprefix(stamp).split()
                width, height, defect, synthetic, solid, inverted, top = map(int, numbers)
                kinds = bool(synthetic), solid, bool(inverted), top
                return Inspection(digest, width, height, defect, *kinds)
        return None

    def save(self, found: Mapping[str, tuple[str, Inspection]]) -> None:
        """Write all inspections to the first place that can be written; else do without."""
        entries = {
            key: " ".join(map(str, (stamp, seen.digest, *map(int, seen[1:]))))
            for key, (stamp, seen) in found.items()
        }
        for place in self._places:
            with contextlib.suppress(OSError):
                write_json(place, {"version": _VERSION, "files": entries}, key=self._key)
                return


def read_stamped(path: Path) -> tuple[str, bytes]:
    """Read a file with its `stamp`: that of the very file read, whatever its name leads to later.

    A `DataError` of this module has the reason alone: whoever looks at a file names it.
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


def inspect_image(data: bytes, decoding: Decoding = USUAL) -> Inspection:
    """Digest an image file's bytes and check that they are whole, mostly without decoding them.

    A PNG is whole if the checksums of its chunks are right up to its end, a JPEG if it ends with
    the end-of-image marker; any other file is decoded, and any of 16 bits.
    """
    with opened(data, decoding) as image:
        height, width = displayed_size(image, data)
        if image.format == "PNG":
            with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
                again.verify()
        elif image.format != "JPEG" or not data.endswith(_JPEG_END):
            image.load()
        brightest = int(np.asarray(image).max()) if image.mode.startswith("I;16") else -1
    digest, synthetic = hashlib.sha256(data).hexdigest(), SYNTHETIC in data
    return Inspection(digest, width, height, -1, synthetic, brightest=brightest)


def inspect_mask(data: bytes, decoding: Decoding = USUAL) -> Inspection:
    """Digest a ground truth mask's bytes and count its defect pixels."""
    with opened(data, decoding) as image:
        values = mask_values(image)
    height, width = values.shape
    defect, solid = _areas(values)
    rim = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    most = values.size / 2 < defect < values.size and bool(np.mean(rim > 0) > 0.5)
    digest, synthetic = hashlib.sha256(data).hexdigest(), SYNTHETIC in data
    return Inspection(digest, width, height, defect, synthetic, solid, inverted=most)


def _areas(values: NDArray[np.uint8 | np.uint16]) -> tuple[int, int]:
    """Count a mask's pixels above 0, and those that are left of them if it has faint ones.

    It has if there are more grey values than kinds of defects, or a bright one beside one of less
    than an eighth of it, as a JPEG and an interpolation leave them; of labels, few are bright.
    """
    counts = np.zeros(np.iinfo(values.dtype).max + 1, dtype=np.int64)
    for row in values:  # at once, each pixel would take 8 bytes
        counts += np.bincount(row, minlength=len(counts))
    levels = np.flatnonzero(counts[1:]) + 1
    defect, top = int(counts[1:].sum()), int(levels[-1]) if len(levels) else 0
    faint = len(levels) > _FEW_LEVELS or (top > 127 and bool(levels[0] < top / 8))
    return defect, int(counts[(top + 1) // 2 :].sum()) if faint else defect


def fingerprint(seen: Mapping[str, Inspection]) -> str:
    """Digest a category's images, masks and label files, by names relative to the root."""
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


def _places(root: Path, category: str) -> list[Path]:
    root = root.resolve()
    places = []
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        places = [cache / "dfkde" / "digests" / key / f"{category}.json"]
    beside = root / ".dfkde"
    # A link could lead to a folder of somebody's that has a file of that name.
    if beside.is_symlink() or _is_read_only(root):
        return places
    return [beside / f"{category}.json", *places]


def _is_read_only(root: Path) -> bool:
    """Tell an installed package and a folder marked read-only (which root could write to)."""
    places = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    installed = any(root.is_relative_to(Path(place).resolve()) for place in places)
    return installed or root.stat().st_mode & 0o222 == 0


def _load(place: Path, key: str) -> dict[str, str] | None:
    """Return a file's entries: none if it is absent or of another version; None if damaged."""
    try:
        kept = read_json(place, key=key)
    except DamagedError:
        return None
    except OSError:
        return {}
    return kept["files"] if kept.get("version") == _VERSION else {}
