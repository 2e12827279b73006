"""Everything that is known of one category on disk, and every rule that it breaks."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.config import DatasetConfig
from harness.data.digests import InspectionCache, changed_files
from harness.data.images import read_image
from harness.data.inspection import (
    Inspection,
    fingerprint,
    inspect_image,
    inspect_mask,
    read_stamped,
)
from harness.data.listing import DataError, ImageFile, Listing, Problem
from harness.data.official import PUBLISHED, differences
from harness.data.readers import READERS
from harness.data.roots import dataset_root
from harness.data.split import split_normals
from harness.system.terminal import alike, shown
from harness.system.threads import available

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


_INSPECT: dict[str, Callable[[bytes], Inspection]] = {"image": inspect_image, "mask": inspect_mask}


@dataclass(frozen=True)
class Survey:
    """What was found of one category.

    Attributes
    ----------
    root : Path
        The dataset's root.
    listing : Listing
        The category's images.
    seen : dict of str to Inspection
        The sound files, by name, label files included.
    problems : tuple of Problem
        Every rule that the category breaks.
    """

    root: Path
    listing: Listing
    seen: dict[str, Inspection]
    problems: tuple[Problem, ...]


class _Wanted(NamedTuple):
    """A file to inspect."""

    name: str
    kind: str
    stamp: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}"


def survey(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """List and inspect one category, and collect every problem.

    Parameters
    ----------
    dataset : DatasetConfig
        Where and how.
    category : str
        One of `dataset.categories`.
    seed : int
        Determines the split where the layout has none of its own.

    Raises
    ------
    DataError
        If a setting is wrong, or the category cannot be listed at all.
    """
    check_settings(dataset, category)
    root = dataset_root(dataset)
    listing = READERS[dataset.reader](root, category, dataset=dataset)
    if not listing.has_split:
        listing = split_normals(listing, category, seed=seed, share=dataset.train_share)
    seen, broken = _inspect_all(root, listing, category=category)
    # Not read again: other bytes than those parsed could be there by now.
    seen |= {name: Inspection(digest, 0, 0, -1) for name, digest in listing.documents.items()}
    problems = [*listing.problems, *broken, *problems_of(listing, seen, category=category)]
    problems += changed_files(root, category, seen=seen)
    published = PUBLISHED.get(dataset.name, {}).get(category)
    if published is None:
        problems.append(Problem(category, "is not a category of a published dataset", fatal=False))
    else:
        problems += differences(published, listing, seen=seen, category=category)
    return Survey(root, listing, seen, tuple(problems))


def check_settings(dataset: DatasetConfig, category: str) -> None:
    """Raise `DataError` if the reader is unknown, or the dataset has no such category."""
    if dataset.reader not in READERS:
        rule = f"dataset.reader must be one of {', '.join(READERS)}"
        raise DataError(f"{rule}, got '{dataset.reader}'")
    if category not in dataset.categories:
        nearest = difflib.get_close_matches(category, dataset.categories, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        rule = f"category must be one of {', '.join(dataset.categories)} for {dataset.title}"
        raise DataError(f"{rule}, got '{category}'{alike(category, dataset.categories)}{hint}")


def _inspect_all(
    root: Path, listing: Listing, *, category: str
) -> tuple[dict[str, Inspection], list[Problem]]:
    """Inspect every listed file, reading only those that are new or changed."""
    cache = InspectionCache(root, category)
    wanted = _wanted(listing)
    seen = {file.name: found for file in wanted if (found := cache.find(file.key, file.stamp))}
    unknown = [file for file in wanted if file.name not in seen]
    if not unknown:
        return seen, []
    with ThreadPoolExecutor(available()) as pool:
        results = list(pool.map(lambda file: _inspect(root, file), unknown))
    stamps = {file.name: file.stamp for file in wanted}
    for file, result in zip(unknown, results, strict=True):
        if not isinstance(result, Problem):
            stamps[file.name], seen[file.name] = result
    cache.save({f.key: (stamps[f.name], seen[f.name]) for f in wanted if f.name in seen})
    return seen, [result for result in results if isinstance(result, Problem)]


def _wanted(listing: Listing) -> list[_Wanted]:
    """Name the files to inspect; those that are missing are the reader's problems."""
    images = (*listing.train, *listing.test)
    kinds = {image.name: "image" for image in images}
    kinds |= {image.mask: "mask" for image in images if image.mask is not None}
    files = listing.files
    return [_Wanted(name, kind, files[name]) for name, kind in kinds.items() if name in files]


def _inspect(root: Path, file: _Wanted) -> tuple[str, Inspection] | Problem:
    """Read a file once; return its stamp as it was read, and what was seen."""
    try:
        stamp, data = read_stamped(root / file.name)
        return stamp, _INSPECT[file.kind](data)
    except DataError as error:
        return Problem(file.name, str(error))


class Verdict(NamedTuple):
    """The result for one category.

    Attributes
    ----------
    category : str
        The category.
    train, test_normal, test_anomalous, masks : int
        Numbers of images, and of ground truth masks.
    fingerprint : str
        As `Split.fingerprint`; empty if the category cannot be listed.
    problems : tuple of Problem
        All of them; none means that the category equals the published one.
    """

    category: str
    train: int
    test_normal: int
    test_anomalous: int
    masks: int
    fingerprint: str
    problems: tuple[Problem, ...]

    @property
    def broken(self) -> bool:
        """Whether no run is possible, not even an unofficial one."""
        return any(problem.fatal for problem in self.problems)


def verify(dataset: DatasetConfig, category: str, *, seed: int) -> Verdict:
    """Check one category, decoding every image.

    Beyond the checks of `load_split`, this finds images whose pixels cannot be decoded though the
    file looks whole, and test images whose pixels equal those of a training image though the
    files differ.

    Parameters
    ----------
    dataset : DatasetConfig
        Where and how.
    category : str
        One of `dataset.categories`.
    seed : int
        Determines the split where the layout has none of its own.

    Raises
    ------
    DataError
        If a setting is wrong or the dataset's root does not exist.
    """
    check_settings(dataset, category)
    dataset_root(dataset)
    try:
        found = survey(dataset, category, seed=seed)
    except DataError as error:
        return Verdict(category, 0, 0, 0, 0, "", (Problem(category, str(error)),))
    problems = (*found.problems, *_pixel_problems(found))
    test = found.listing.test
    anomalous = sum(image.anomalous for image in test)
    return Verdict(
        category=category,
        train=len(found.listing.train),
        test_normal=len(test) - anomalous,
        test_anomalous=anomalous,
        masks=sum(image.mask is not None for image in test),
        fingerprint=fingerprint(found.seen),
        problems=problems,
    )


def _pixel_problems(found: Survey) -> Iterator[Problem]:
    images = [*found.listing.train, *found.listing.test]
    sound = [image for image in images if image.name in found.seen]
    with ThreadPoolExecutor(available()) as pool:
        digests = dict(zip(sound, pool.map(lambda i: _pixel_digest(found, i), sound), strict=True))
    yield from (digest for digest in digests.values() if isinstance(digest, Problem))
    train = {digests[image]: image for image in found.listing.train if image in digests}
    test = [image for image in found.listing.test if image in digests]
    normal = {digests[image]: image for image in test if not image.anomalous}
    for image in found.listing.test:
        twin = train.get(digests.get(image, ""))
        if twin and found.seen[twin.name].digest != found.seen[image.name].digest:
            rule = f"has the same pixels as the training image {shown(twin.name)}"
            yield Problem(image.name, rule)
        twin = normal.get(digests.get(image, "")) if image.anomalous else None
        if twin and found.seen[twin.name].digest != found.seen[image.name].digest:
            rule = f"is an anomalous image with the pixels of the normal image {shown(twin.name)}"
            yield Problem(image.name, rule)


def _pixel_digest(found: Survey, image: ImageFile) -> str | Problem:
    try:
        pixels = read_image(found.root / image.name, found.seen[image.name].digest)
    except DataError as error:
        return Problem(image.name, str(error))
    return hashlib.sha256(pixels.data).hexdigest()
