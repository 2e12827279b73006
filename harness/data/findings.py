"""What a category's files break of the rules, and what is odd about them without breaking one."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from harness.data.images import Decoding, read_image
from harness.data.inspection import Inspection
from harness.data.listing import STRAY, DataError, ImageFile, Listing, Problem
from harness.system.terminal import shown
from harness.system.threads import available

_SHOWN = 3


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
    for image, other, of_train in _copies(listing, {name: seen[name].digest for name in seen}):
        rule = f"is a test image identical to the training image {shown(other)}"
        if not of_train:
            rule = f"is an anomalous image identical to the normal image {shown(other)}"
        yield Problem(image.name, rule)
    for image in listing.test:
        if image.mask is not None and {image.mask, image.name} <= seen.keys():
            yield from _mask_problems(seen[image.name], image.mask, seen[image.mask])
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
    for image, other, of_train in _copies(listing, digests):
        if seen[image.name].digest != seen[other].digest:
            rule = f"has the same pixels as the training image {shown(other)}"
            if not of_train:
                rule = f"is an anomalous image with the pixels of the normal image {shown(other)}"
            yield Problem(image.name, rule)


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


def _copies(listing: Listing, digests: Mapping[str, str]) -> Iterator[tuple[ImageFile, str, bool]]:
    """Yield (test image, other image, whether that one trains) for what must not be equal."""
    train = {digests[i.name]: i.name for i in listing.train if i.name in digests}
    test = [image for image in listing.test if image.name in digests]
    normal = {digests[image.name]: image.name for image in test if not image.anomalous}
    for image in test:
        digest = digests[image.name]
        if digest in train:
            yield image, train[digest], True
        if image.anomalous and digest in normal:
            yield image, normal[digest], False


def _mask_problems(image: Inspection, name: str, mask: Inspection) -> Iterator[Problem]:
    if (image.width, image.height) != (mask.width, mask.height):
        sizes = f"is {mask.width}x{mask.height}, its image {image.width}x{image.height}"
        yield Problem(name, sizes)
    if mask.defect_pixels == 0:
        yield Problem(name, "is an empty mask: no pixel is above 0")
