"""What is seen of a category's files: digests, sizes, broken rules, oddities.

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
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.images import USUAL, Decoding, displayed_size, mask_values, opened, read_image
from harness.data.listing import STRAY, DataError, ImageFile, Listing, Problem
from harness.system.files import DamagedError, read_json, write_json
from harness.system.terminal import shown
from harness.system.threads import available

SYNTHETIC = b"synthetic image, made by python -m harness.data"
"""What every image file of a synthetic dataset holds."""

_JPEG_END = b"\xff\xd9"
_FEW_LEVELS = 16  # above 0: of the labels of kinds of defects, say
_VERSION = 5
"""Raised by whatever changes which files count as sound, or what is seen of them."""

log = logging.getLogger(__name__)

_SHOWN = 3


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
    lines = []
    for name, inspection in seen.items():
        name = unicodedata.normalize("NFC", name)
        if "\n" in name:  # escaped after a blank line, so that no other name is written alike
            name = "\n" + name.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"{name}\n{inspection.digest}\n")
    for line in sorted(lines):
        whole.update(line.encode())
    return whole.hexdigest()


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


def problems_of(
    listing: Listing, seen: Mapping[str, Inspection], *, category: str, bits: int
) -> Iterator[Problem]:
    """Check a category's images and masks against each other; broken files are not in `seen`."""
    anomalous = sum(image.anomalous for image in listing.test)
    if not listing.train:
        yield Problem(category, "has no training images")
    if anomalous == len(listing.test) and (anomalous or listing.has_split):
        yield Problem(category, "has no normal test images")
    if not anomalous:  # a model can be fitted; in a layout with a test set, something is missing
        yield Problem(category, "has no anomalous test images", fatal=listing.has_split)
    yield from _names_alike(seen)
    digests = {name: inspection.digest for name, inspection in seen.items()}
    for image, other, kinds in _copies(listing, digests):
        rule = "is {} image identical to the {} image ".format(*kinds)
        yield Problem(image.name, rule + shown(other))
    for image in listing.test:
        if image.mask is not None and {image.mask, image.name} <= seen.keys():
            size, mask_size = (
                f"{seen[name].width}x{seen[name].height}" for name in (image.name, image.mask)
            )
            if size != mask_size:
                yield Problem(image.mask, f"is {mask_size}, its image {size}")
            if seen[image.mask].defect_pixels == 0:
                yield Problem(image.mask, "is an empty mask: no pixel is above 0")
    for name, inspection in seen.items():
        if inspection.brightest >> bits > 0:
            rule = f"has the value {inspection.brightest}, more than dataset.bits={bits} hold"
            yield Problem(name, rule)


def pixel_problems(
    root: Path, listing: Listing, seen: Mapping[str, Inspection], decoding: Decoding
) -> Iterator[Problem]:
    """Decode every image, and find those of the same pixels in files that differ."""

    def digest(name: str) -> str | Problem:
        try:
            pixels = read_image(root / name, seen[name].digest, decoding)
        except DataError as error:
            return Problem(name, str(error))
        return hashlib.sha256(pixels.data).hexdigest()

    names = [image.name for image in (*listing.train, *listing.test) if image.name in seen]
    with ThreadPoolExecutor(available()) as pool:
        results = list(pool.map(digest, names))
    yield from (result for result in results if isinstance(result, Problem))
    digests = {n: r for n, r in zip(names, results, strict=True) if isinstance(r, str)}
    for image, other, kinds in _copies(listing, digests):
        if seen[image.name].digest != seen[other].digest:
            rule = "is {} image with the pixels of the {} image ".format(*kinds)
            yield Problem(image.name, rule + shown(other))


def notes_of(
    listing: Listing, seen: Mapping[str, Inspection], *, decoding: Decoding
) -> Iterator[str]:
    """Say what of a category is not used, and what of it is not what it seems."""
    for what, count in listing.skipped.items():
        yield f"{what} that are not used: {count}"
    paths = [PurePosixPath(one.file) for one in listing.problems if one.rule == STRAY]
    if strays := Counter(path.suffix.lower() or path.name for path in paths):
        kinds = ", ".join(f"{count} {ending}" for ending, count in strays.most_common())
        yield f"files that are not used, being no images of the dataset: {kinds}"
    masks = {i.mask: seen[i.mask] for i in listing.test if i.mask in seen and i.mask is not None}
    if oddities := [*_mask_oddities(masks)]:
        yield f"look at the ground truth masks: {'; '.join(oddities)}"
    yield from _unused_bits(listing, seen, bits=decoding.bits)


def _mask_oddities(masks: Mapping[str, Inspection]) -> Iterator[str]:
    areas = {name: mask.width * mask.height for name, mask in masks.items()}
    share = sum(mask.defect_pixels for mask in masks.values()) / max(1, sum(areas.values()))
    white = [name for name, mask in masks.items() if mask.defect_pixels == areas[name]]
    inverted = [name for name, mask in masks.items() if mask.inverted]
    faint = [name for name, mask in masks.items() if mask.solid_pixels != mask.defect_pixels]
    if share > 0.5:
        yield (
            f"they mark {share:.0%} of all pixels as defect; if white is their background, pixel"
            " metrics measure the background"
        )
    elif inverted:
        yield (
            f"{_listed(inverted, masks)} mark most of the image up to its border, others do not; if"
            " their defect is black, pixel metrics take their background for it"
        )
    if white:
        yield (
            f"{_listed(white, masks)} are white all over, so that pixel metrics take all of these"
            " images for defect"
        )
    if faint:
        defect = sum(masks[name].defect_pixels for name in faint)
        solid = sum(masks[name].solid_pixels for name in faint)
        yield (
            f"{_listed(faint, masks)} have faint grey values, as JPEG and resizing leave them; each"
            f" above 0 counts, so that their defects are {defect / solid - 1:.0%} larger than from"
            " half of the largest value on, which moves AUPRO and pixel AUROC"
        )


def _listed(names: Sequence[str], masks: Collection[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} of {len(masks)} ({', '.join(map(shown, names[:_SHOWN]))}{more})"


def _unused_bits(listing: Listing, seen: Mapping[str, Inspection], *, bits: int) -> Iterator[str]:
    """Tell images of 16 bits whose upper bits are all 0, as 12-bit cameras write them."""
    deep = {name: one.brightest for name, one in seen.items() if one.brightest >= 0}
    train = [deep[image.name] for image in listing.train if image.name in deep]
    if not train or max(train) >> (bits - 2):
        return
    needed = max(8, max(deep.values()).bit_length())
    needed += needed % 2  # cameras have 10, 12 or 14
    remedy = f"; dataset.bits={needed} reads them as images of {needed} bits"
    yield (
        f"none of the {len(train)} training images of 16 bits has a value above {max(train)}, so"
        f" that their upper 8 of {bits} bits hold {(max(train) >> (bits - 8)) + 1} grey levels"
        f"{remedy if needed < bits else ''}"
    )


def _names_alike(names: Iterable[str]) -> Iterator[Problem]:
    """Find files that the fingerprint, which knows composed names alone, could not tell apart."""
    composed: dict[str, str] = {}
    for name in names:
        other = composed.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            rule = f"has the same name as {other!a} in Unicode's composed form (NFC)"
            yield Problem(name, rule)


def _copies(
    listing: Listing, digests: Mapping[str, str]
) -> Iterator[tuple[ImageFile, str, tuple[str, str]]]:
    """Yield (test image, other image, kinds of both) for what must not be equal."""
    train = {digests[i.name]: i.name for i in listing.train if i.name in digests}
    test = [image for image in listing.test if image.name in digests]
    normal = {digests[image.name]: image.name for image in test if not image.anomalous}
    for image in test:
        digest = digests[image.name]
        if digest in train:
            yield image, train[digest], ("a test", "training")
        if image.anomalous and digest in normal:
            yield image, normal[digest], ("an anomalous", "normal")
