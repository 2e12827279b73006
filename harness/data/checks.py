"""The rules that hold for every layout, over what was seen of the files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from harness.data.inspection import Inspection
from harness.data.listing import ImageFile, Listing, Problem
from harness.show import shown

Seen = Mapping[str, Inspection]
"""Inspections by name; a file that is broken is missing here and has its own problem."""


def problems_of(listing: Listing, seen: Seen, *, category: str) -> Iterator[Problem]:
    """Check a category's images and masks against each other."""
    yield from _nothing_missing(listing, category)
    yield from _names_alike(seen)
    yield from _leaks(listing, seen)
    yield from _contradictions(listing, seen)
    for image in listing.test:
        if image.mask in seen and image.name in seen:
            yield from _mask_problems(image, seen)


def _nothing_missing(listing: Listing, category: str) -> Iterator[Problem]:
    anomalous = sum(image.anomalous for image in listing.test)
    if not listing.train:
        yield Problem(category, "has no training images")
    if anomalous == len(listing.test):
        yield Problem(category, "has no normal test images")
    if not anomalous:
        yield Problem(category, "has no anomalous test images")


def _leaks(listing: Listing, seen: Seen) -> Iterator[Problem]:
    train = {seen[image.name].digest: image.name for image in _known(listing.train, seen)}
    for image in _known(listing.test, seen):
        twin = train.get(seen[image.name].digest)
        if twin is not None:
            yield Problem(
                image.name, f"is a test image identical to the training image {shown(twin)}"
            )


def _names_alike(seen: Seen) -> Iterator[Problem]:
    """Find files that the fingerprint, which knows composed names alone, could not tell apart."""
    composed: dict[str, str] = {}
    for name in seen:
        other = composed.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            rule = f"has the same name as {other!a} in Unicode's composed form (NFC)"
            yield Problem(name, rule)


def _contradictions(listing: Listing, seen: Seen) -> Iterator[Problem]:
    test = list(_known(listing.test, seen))
    normal = {seen[image.name].digest: image.name for image in test if not image.anomalous}
    for image in test:
        twin = normal.get(seen[image.name].digest)
        if image.anomalous and twin is not None:
            rule = f"is an anomalous image identical to the normal image {shown(twin)}"
            yield Problem(image.name, rule)


def _known(images: Iterable[ImageFile], seen: Seen) -> Iterator[ImageFile]:
    return (image for image in images if image.name in seen)


def _mask_problems(image: ImageFile, seen: Seen) -> Iterator[Problem]:
    assert image.mask is not None  # noqa: S101 - for the type checker
    of_image, of_mask = seen[image.name], seen[image.mask]
    if of_image[1:3] != of_mask[1:3]:
        rule = f"is {of_mask.width}x{of_mask.height}, its image {of_image.width}x{of_image.height}"
        yield Problem(image.mask, rule)
    if of_mask.defect_pixels == 0:
        yield Problem(image.mask, "is an empty mask: no pixel is above 0")
