"""Feature maps, arrays of shape (n_features, h, w), checked and taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dfkde.base import Array

FeatureMap = np.ndarray[Any, Any]


def positions(feature_map: FeatureMap) -> Array:
    """Turn a feature map (d, h, w) to one feature per position (h * w, d), in float64."""
    return feature_map.reshape(len(feature_map), -1).T.astype(np.float64)


def checked(
    train_maps: Iterable[FeatureMap], features_shape: tuple[int, ...]
) -> Iterator[FeatureMap]:
    """Yield the training maps, as many as the features (n_samples, n_features) and all alike.

    Raises
    ------
    ValueError
        If one has another shape or is not finite, or their number is another.
    """
    n, d = features_shape
    shape, count = (d, 0, 0), 0
    for count, feature_map in enumerate(train_maps, start=1):
        if count == 1 and feature_map.ndim == 3:
            shape = (d, *feature_map.shape[1:])
        check_map(feature_map, shape, name=f"train_maps[{count - 1}]")
        yield feature_map
    if count != n:
        raise ValueError(f"train_maps must be as many as train_features, got {count} and {n}")


def check_map(feature_map: FeatureMap, shape: tuple[int, ...], *, name: str) -> None:
    """Refuse a feature map of another shape than (n_features, h, w), or with NaN or infinity.

    Raises
    ------
    ValueError
        In one line: its name, the rule and what it is.
    """
    if feature_map.shape != shape:
        raise ValueError(
            f"{name} must be of shape (n_features, h, w) = {shape} like the training images',"
            f" got {feature_map.shape}"
        )
    finite = np.isfinite(feature_map)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, got {feature_map[place]} at {place}")
