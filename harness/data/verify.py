"""The whole verification of a category: what every run checks, and every pixel decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.images import read_image
from harness.data.inspection import fingerprint
from harness.data.listing import ImageFile, Problem, shown
from harness.data.roots import dataset_root
from harness.data.survey import Survey, check_settings, survey
from harness.threads import available


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
