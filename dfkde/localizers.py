"""Anomaly maps: which positions of the feature map make the image anomalous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from dfkde.base import AnomalyDetector, Array


class Localizer(ABC):
    """Gives each position of a feature map an anomaly score, with a fitted model."""

    @abstractmethod
    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[np.ndarray[Any, Any]],
    ) -> Self:
        """Learn from the training images.

        Parameters
        ----------
        model : AnomalyDetector
            Fitted on the pooled features.
        train_features : array of shape (n_samples, n_features)
            The pooled features that it was fitted on.
        train_maps : iterable of arrays of shape (n_features, h, w)
            The feature maps of the same images in the same order; read once, one at a time.
        """

    @abstractmethod
    def anomaly_map(self, feature_map: np.ndarray[Any, Any]) -> Array:
        """Score the positions of one image.

        Parameters
        ----------
        feature_map : array of shape (n_features, h, w)
            Its mean over the positions is the pooled feature.

        Returns
        -------
        array of shape (h, w)
            float64, unbounded, the higher the more anomalous.
        """


class Occlusion(Localizer):
    """How much of the image's anomaly score a position carries.

    The pooled feature is the mean of the feature map over its positions. Each position's feature
    in turn is replaced by its mean over the training images, and the drop of the anomaly score
    is the position's value: exact for every model that scores pooled features.

    Attributes
    ----------
    model_ : AnomalyDetector
        The fitted model.
    mean_map_ : array of shape (n_features, h, w)
        Mean feature map of the training images.
    """

    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[np.ndarray[Any, Any]],
    ) -> Self:
        """Keep the model and average the training maps."""
        self.model_ = model
        total, count = np.zeros(()), 0
        for feature_map in train_maps:
            total, count = total + feature_map.astype(np.float64), count + 1
        self.mean_map_ = total / count
        return self

    def anomaly_map(self, feature_map: np.ndarray[Any, Any]) -> Array:
        """Score each position by the drop when it is made normal."""
        feature_map = feature_map.astype(np.float64)
        d, h, w = feature_map.shape
        pooled = feature_map.mean(axis=(1, 2))
        change = (self.mean_map_ - feature_map).reshape(d, h * w).T / (h * w)
        scores = self.model_.anomaly_score(np.vstack([pooled, pooled + change]))
        return (scores[0] - scores[1:]).reshape(h, w)


LOCALIZERS: dict[str, type[Localizer]] = {"occlusion": Occlusion}
"""The localizers by name."""


def localizer(name: str) -> Localizer | None:
    """Give the localizer of this name, not yet fitted; None for `none`.

    Parameters
    ----------
    name : str
        One of `LOCALIZERS`, or `none` for no anomaly maps.

    Raises
    ------
    ValueError
        If there is no such localizer.
    """
    if name == "none":
        return None
    if name not in LOCALIZERS:
        raise ValueError(f"localizer must be one of {[*LOCALIZERS, 'none']}, got {name!r}")
    return LOCALIZERS[name]()
