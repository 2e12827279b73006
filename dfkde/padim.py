"""PaDiM as published: a Gaussian at every position of the feature map."""

from __future__ import annotations

from itertools import islice

import numpy as np
from sklearn.utils import check_random_state

from dfkde.base import Array, check_integer
from dfkde.localizers import render
from dfkde.maps import ImageMaps, Layers, MapDetector, Scored

# Images whose outer products are added at once: one pass over the covariances for all of them.
_BATCH = 16
# Positions that are computed at once.
_POSITIONS = 256
# Pixels of the image for each position of the first layer, in ResNets and EfficientNets.
_STRIDE = 4


class PaDiM(MapDetector):
    """A Gaussian at every position, of a random subset of the channels of all layers.

    A position of the finest layer has the channels of that layer there and of the coarser layers
    where they cover it. The value of the anomaly map is the Mahalanobis distance to the Gaussian
    of the position; the image's score is the maximum of the map once it is brought to the size of
    the image and smoothed, as for the pixel metrics.

    Parameters
    ----------
    n_features : int
        Channels drawn, as published 100 for ResNet18 (550 for WideResNet50-2). The model keeps
        8 * h * w * n_features^2 bytes.
    regularisation : float
        What is added to the diagonal of each covariance, above 0; as published 0.01.
    sigma : float
        Of the smoothing before the image's score, in pixels of an image of 256 pixels a side.
    random_state : int, RandomState instance or None
        Seed of the subset.

    Attributes
    ----------
    channels_ : array of shape (n_features,)
        The channels drawn, in increasing order, among those of all layers in their order.
    mean_ : array of shape (h * w, n_features)
    whitening_ : array of shape (h * w, n_features, n_features)
        The inverse of the lower Cholesky factor of the covariance at each position.

    References
    ----------
    T. Defard, A. Setkov, A. Loesch and R. Audigier, PaDiM: a Patch Distribution Modeling Framework
    for Anomaly Detection and Localization, ICPR workshops, 2021, equations 1 and 2.
    """

    def __init__(
        self,
        n_features: int = 100,
        *,
        regularisation: float = 0.01,
        sigma: float = 4.0,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.n_features = n_features
        self.regularisation = regularisation
        self.sigma = sigma
        self.random_state = random_state

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes: of one, there is no covariance."""
        check_integer("n_features", self.n_features, minimum=1)
        if not 0 < self.regularisation < np.inf:
            raise ValueError(f"regularisation must be above 0, got {self.regularisation!r}")
        if not 0 <= self.sigma < np.inf:
            raise ValueError(f"sigma must be at least 0, got {self.sigma!r}")
        return 2

    def _fit(self, maps: ImageMaps) -> None:
        d = self.n_features
        if d > self._n_channels:
            raise ValueError(
                f"n_features must be at most the channels of all layers, {self._n_channels},"
                f" got {d}"
            )
        random = check_random_state(self.random_state)
        self.channels_ = np.sort(random.choice(self._n_channels, d, replace=False))
        self.whitening_ = self._covariances(maps)
        self.whitening_[:, np.arange(d), np.arange(d)] += self.regularisation
        for start in range(0, len(self.whitening_), _POSITIONS):
            block = self.whitening_[start : start + _POSITIONS]
            block[:] = np.linalg.inv(np.linalg.cholesky(block))

    def _covariances(self, maps: ImageMaps) -> Array:
        """Return the unbiased covariances (h * w, d, d) in one pass, and keep the means.

        Sums about the mean so far, corrected as it moves: Chan, Golub and LeVeque, 1983.
        """
        h, w = self._grid
        d, n = self.n_features, 0
        self.mean_, scatter = np.zeros((h * w, d)), np.zeros((h * w, d, d))
        embedded = map(self._embedded, maps)
        while batch := list(islice(embedded, _BATCH)):
            new = np.stack(batch, axis=1)
            for start in range(0, h * w, _POSITIONS):
                block = slice(start, start + _POSITIONS)
                _add(new[block], self.mean_[block], scatter[block], n_before=n)
            n += len(batch)
        scatter /= n - 1
        return scatter

    def _score(self, layers: Layers) -> Scored:
        centred = self._embedded(layers) - self.mean_
        h, w = self._grid
        anomaly_map = np.linalg.norm(self.whitening_ @ centred[:, :, None], axis=1).reshape(h, w)
        size = h * _STRIDE, w * _STRIDE
        return Scored(float(render(anomaly_map, size=size, sigma=self.sigma).max()), anomaly_map)

    def _embedded(self, layers: Layers) -> Array:
        """Return the drawn channels (h * w, d) at each position, of coarser layers repeated."""
        h, w = self._grid
        found = []
        for one in layers:
            rows, columns = np.arange(h) * one.shape[1] // h, np.arange(w) * one.shape[2] // w
            found.append(one[:, rows[:, None], columns])
        return np.concatenate(found)[self.channels_].reshape(-1, h * w).T.astype(np.float64)


def _add(new: Array, mean: Array, scatter: Array, *, n_before: int) -> None:
    """Add new images (h * w, n, d) to means and scatters of so many others, in place."""
    n = new.shape[1]
    own = new.mean(axis=1)
    shift = own - mean
    between = shift * np.sqrt(n_before * n / (n_before + n))
    rows = np.concatenate([new - own[:, None], between[:, None]], axis=1)
    scatter += rows.transpose(0, 2, 1) @ rows
    mean += shift * (n / (n_before + n))
