"""Samples and splits, and the seeded draws that decide which images train."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data.images import USUAL, Decoding
from harness.data.listing import DataError, Listing

NORMAL = "good"
"""What is shown as the defect type of a normal image, whatever the dataset's own word for it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file.

    Attributes
    ----------
    root : Path
        The dataset's root.
    name : str
        The image file's path relative to it, with forward slashes: its identity in records.
    defect_type : str
        `good` for a normal image, else the dataset's name of the defect, which may be `good` too.
    anomalous : bool
        The image-level ground truth, as the layout has it.
    mask_name : str, optional
        The ground truth mask's path relative to the root; None for a normal image or where the
        dataset has none.
    digest : str
        SHA-256 of the image file's bytes, hexadecimal; whoever decodes them checks it.
    mask_digest : str, optional
        The same of the ground truth mask's file; None without one.
    size : tuple of int
        Height and width of the upright image, in pixels.
    decoding : Decoding
        How the files are decoded.
    """

    root: Path
    name: str
    defect_type: str
    anomalous: bool
    mask_name: str | None
    digest: str
    mask_digest: str | None
    size: tuple[int, int]
    decoding: Decoding = USUAL

    # Made when asked for: the paths of many images would weigh more than all else here.
    @property
    def path(self) -> Path:
        """The image file."""
        return self.root / self.name

    @property
    def mask_path(self) -> Path | None:
        """The ground truth mask's file, where there is one."""
        return None if self.mask_name is None else self.root / self.mask_name


Samples = tuple[Sample, ...]


@dataclass(frozen=True)
class Split:
    """One category, ready to be evaluated.

    Attributes
    ----------
    train, test : tuple of Sample
        Sorted by name. Training samples are normal (unless contaminated on purpose).
    fingerprint : str
        Digest over the relative paths and contents of the category's images and masks.
    official : bool
        Whether the category equals the published dataset.
    n_left_out : int
        Number of images that `dataset.exclude` leaves out.
    n_duplicates : int
        Number of images with the bytes of another one, where the seed draws the split.
    notes : tuple of str
        What is odd about the data, or was left out of them, in a line each.
    """

    train: Samples
    test: Samples
    fingerprint: str
    official: bool
    n_left_out: int = 0
    n_duplicates: int = 0
    notes: tuple[str, ...] = ()


def random_stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a stream's name.

    Parameters
    ----------
    seed : int
        The job's seed, at least 0.
    name : str
        What the numbers are drawn for: `n_train/bottle`.

    Returns
    -------
    numpy.random.Generator
        Independent of the generator of any other seed or name.

    Raises
    ------
    DataError
        If the seed is negative.

    Examples
    --------
    >>> int(random_stream(42, "n_train/bottle").integers(1000))
    28
    >>> int(random_stream(42, "n_train/cable").integers(1000))
    398
    """
    if seed < 0:
        raise DataError(f"seed must be at least 0, got {seed}")
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))


def draw_together(order: Iterable[int], keys: Sequence[Hashable], *, count: int) -> set[int]:
    """Choose the first `count` positions of an order, those of equal keys together.

    Fewer where the last ones do not come apart; without equal keys just the first `count`.

    >>> sorted(draw_together([3, 0, 2, 1], ["a", "b", "c", "a"], count=2))
    [0, 3]
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    chosen: set[int] = set()
    for position in order:
        group = groups[keys[position]]
        if position not in chosen and len(chosen) + len(group) <= count:
            chosen.update(group)
    return chosen


def split_normals(
    listing: Listing,
    category: str,
    *,
    seed: int,
    share: float | None,
    digests: Mapping[str, str],
) -> Listing:
    """Move a seeded share of the normal images, rounded down to whole ones, into training.

    Images of one digest go to one side together; those of unknown digest are each by themselves.
    """
    if share is None or not 0 < share <= 1:
        rule = "dataset.train_share, the share of the normal images that train,"
        raise DataError(f"{rule} must be above 0 and at most 1, got {share}")
    normal = sorted(image for image in listing.test if not image.anomalous)
    # 1e-9: 0.6 * 5 is 3 images, whatever the last bit of 0.6 says.
    count = int(share * len(normal) + 1e-9)
    order = random_stream(seed, f"split/{category}").permutation(len(normal))
    keys = [digests.get(image.name, image.name) for image in normal]
    train = {normal[index] for index in draw_together(order, keys, count=count)}
    # Without anomalous images there is nothing to measure, and the normal ones may all train.
    untested = share == 1 and len(normal) == len(listing.test)
    if not 0 < len(train) < len(normal) + untested:
        rule = f"trains {len(train)} of {len(normal)} normal images; training and test need one"
        together = " each, and duplicates go together" if len({*keys}) < len(keys) else " each"
        raise DataError(f"{category}: dataset.train_share={share} {rule}{together}")
    return replace(
        listing,
        train=tuple(sorted(train)),
        test=tuple(image for image in listing.test if image not in train),
    )


def few_shot(train: Samples, category: str, *, seed: int, n_train: int | None) -> Samples:
    """Keep a seeded subset of the training images; smaller subsets lie within larger ones."""
    if n_train is None:
        return train
    if not 1 <= n_train <= len(train):
        rule = f"must be between 1 and the {len(train)} training images of '{category}'"
        raise DataError(f"n_train {rule}, got {n_train}")
    order = random_stream(seed, f"n_train/{category}").permutation(len(train))
    return tuple(train[index] for index in sorted(order[:n_train]))


def contaminate(
    train: Samples, test: Samples, *, category: str, seed: int, share: float
) -> tuple[Samples, Samples]:
    """Move a seeded choice of anomalous images from the test set into training.

    `share` is the anomalous share of the new training set, in which all images of `train` stay.
    Images of one digest move together.
    """
    if share == 0:
        return train, test
    if not 0 < share < 1:
        raise DataError(f"train_contamination must be at least 0 and below 1, got {share}")
    anomalous = tuple(sample for sample in test if sample.anomalous)
    count = round(share / (1 - share) * len(train))
    order = random_stream(seed, f"train_contamination/{category}").permutation(len(anomalous))
    digests = [sample.digest for sample in anomalous]
    moved = {anomalous[index] for index in draw_together(order, digests, count=count)}
    if not 1 <= len(moved) < len(anomalous):
        rule = f"moves {max(count, len(moved))} of the {len(anomalous)} anomalous images of"
        rule += f" '{category}' into training; it must move one and leave one"
        raise DataError(f"train_contamination={share} {rule}")
    kept = tuple(sample for sample in test if sample not in moved)
    return tuple(sorted((*train, *moved), key=lambda sample: sample.name)), kept
