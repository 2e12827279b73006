"""Seeded protocols: which images train, where the dataset or the experiment leaves it open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.data.errors import DataError
from harness.data.listing import Listing
from harness.data.split import Sample
from harness.data.streams import random_stream

Samples = tuple[Sample, ...]


def split_normals(listing: Listing, category: str, *, seed: int, share: float | None) -> Listing:
    """Move a fixed, seeded share of the normal images into training.

    Parameters
    ----------
    listing : Listing
        All images are in `test`.
    category : str
        Names the random stream.
    seed : int
        The job's seed.
    share : float
        Between 0 and 1; rounded down to whole images.

    Raises
    ------
    DataError
        If `share` leaves training or the normal test images empty.
    """
    if share is None or not 0 < share < 1:
        rule = "dataset.train_share, the share of the normal images that train,"
        raise DataError(f"{rule} must lie between 0 and 1, got {share}")
    normal = sorted(image for image in listing.test if not image.anomalous)
    # 1e-9: 0.6 * 5 is 3 images, whatever the last bit of 0.6 says.
    count = int(share * len(normal) + 1e-9)
    if not 0 < count < len(normal):
        rule = f"trains {count} of {len(normal)} normal images; training and test need one each"
        raise DataError(f"{category}: dataset.train_share={share} {rule}")
    order = random_stream(seed, f"split/{category}").permutation(len(normal))
    train = {normal[index] for index in order[:count]}
    return replace(
        listing,
        train=tuple(sorted(train)),
        test=tuple(image for image in listing.test if image not in train),
    )


def few_shot(train: Samples, category: str, *, seed: int, n_train: int | None) -> Samples:
    """Keep a seeded subset of the training images; smaller subsets lie within larger ones.

    Raises
    ------
    DataError
        If `n_train` is not between 1 and the number of training images.
    """
    if n_train is None:
        return train
    if not 1 <= n_train <= len(train):
        rule = f"must be between 1 and the {len(train)} training images of '{category}'"
        raise DataError(f"n_train {rule}, got {n_train}")
    order = random_stream(seed, f"n_train/{category}").permutation(len(train))
    return _pick(train, order[:n_train])


def contaminate(
    train: Samples, test: Samples, *, category: str, seed: int, share: float
) -> tuple[Samples, Samples]:
    """Move a seeded choice of anomalous images out of the test set into training.

    Parameters
    ----------
    train, test : tuple of Sample
        The split.
    category : str
        Names the random stream.
    seed : int
        The job's seed.
    share : float
        The share of the new training set that is anomalous, rounded to whole images; at least 0,
        below 1. All images of `train` stay.

    Raises
    ------
    DataError
        If `share` is out of range, rounds to no image, or would leave no anomalous test image.
    """
    if share == 0:
        return train, test
    if not 0 < share < 1:
        raise DataError(f"train_contamination must be at least 0 and below 1, got {share}")
    anomalous = tuple(sample for sample in test if sample.anomalous)
    count = round(share / (1 - share) * len(train))
    if not 1 <= count < len(anomalous):
        rule = (
            f"moves {count} of the {len(anomalous)} anomalous images of '{category}' into training"
        )
        raise DataError(f"train_contamination={share} {rule}; it must move one and leave one")
    order = random_stream(seed, f"train_contamination/{category}").permutation(len(anomalous))
    moved = _pick(anomalous, order[:count])
    names = {sample.name for sample in moved}
    kept = tuple(sample for sample in test if sample.name not in names)
    return tuple(sorted((*train, *moved), key=lambda sample: sample.name)), kept


def _pick(samples: Samples, chosen: np.ndarray) -> Samples:
    return tuple(samples[index] for index in sorted(chosen))
