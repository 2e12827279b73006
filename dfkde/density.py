"""DFKDE as published, and its extension to a density over the whole feature space."""

from __future__ import annotations

import numpy as np

from dfkde.base import AnomalyDetector, Array
from dfkde.kernel_density import GaussianKDE
from dfkde.pca import PCA


class DFKDE(AnomalyDetector):
    """Deep feature kernel density estimation.

    The features are projected to their leading principal components; their density there is
    estimated with Gaussian kernels. The anomaly score is the negative natural log density.

    Parameters
    ----------
    n_components : int
        Principal components kept, as published 16.
    max_training_points : int
        With more training images than this, a random subset of this size is used.
    random_state : int
        Seed of that subset.

    Attributes
    ----------
    pca_ : PCA
        The projection.
    kde_ : GaussianKDE
        The density of the projected training features.

    Examples
    --------
    >>> import numpy as np
    >>> from dfkde import DFKDE
    >>> normal = np.random.default_rng(0).normal(size=(100, 4))
    >>> model = DFKDE(n_components=2).fit(normal)
    >>> near, far = model.anomaly_score([[0, 0, 0, 0], [9, 9, 9, 9]])
    >>> bool(near < far)
    True
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        max_training_points: int = 40_000,
        random_state: int = 0,
    ):
        self.n_components = n_components
        self.max_training_points = max_training_points
        self.random_state = random_state

    def _fit(self, X: Array) -> None:
        self._check(X)
        X = self._subset(X)
        self.pca_ = PCA(self.n_components).fit(X)
        self.kde_ = GaussianKDE().fit(self.pca_.transform(X))

    def _score_samples(self, X: Array) -> Array:
        return self.kde_.score_samples(self.pca_.transform(X))

    def _check(self, X: Array) -> None:
        k = self.n_components
        shape = f"(n_samples={X.shape[0]}, n_features={X.shape[1]})"
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"n_components must be an integer of at least 1, got {k!r}")
        if X.shape[1] < k:
            raise ValueError(f"n_components={k} needs at least {k} features, got {shape}")
        if min(len(X), self.max_training_points) <= k + 1:
            raise ValueError(
                f"n_components={k} needs at least {k + 2} training samples, got {shape}"
            )

    def _subset(self, X: Array) -> Array:
        if len(X) <= self.max_training_points:
            return X
        rng = np.random.default_rng(self.random_state)
        return X[np.sort(rng.choice(len(X), self.max_training_points, replace=False))]


class DFKDEResidual(DFKDE):
    """DFKDE with the density of what the projection leaves out.

    Adds the log density of the residual, isotropic Gaussian in the n_features - n_components
    directions left out, as in probabilistic PCA. The sum is a proper log density over the whole
    feature space; with all components kept it equals DFKDE's.

    References
    ----------
    M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis, J. R. Stat. Soc.
    B 61, 1999, equation 8 for the variance.
    """

    def _fit(self, X: Array) -> None:
        super()._fit(X)
        if self.pca_.residual_variance_ == 0 and X.shape[1] > self.n_components:
            raise ValueError(
                f"the training features do not vary outside the first {self.n_components}"
                " principal components; use the model dfkde, which needs no residual"
            )

    def _score_samples(self, X: Array) -> Array:
        log_density = super()._score_samples(X)
        dimensions = X.shape[1] - self.n_components
        if dimensions == 0:
            return log_density
        variance = self.pca_.residual_variance_
        residual = self.pca_.squared_residual(X) / variance
        return log_density - (residual + dimensions * np.log(2 * np.pi * variance)) / 2
