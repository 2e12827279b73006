"""Simple models to compare DFKDE with."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from dfkde.base import AnomalyDetector, Array
from dfkde.density import lower_cholesky


class KNN(AnomalyDetector):
    """Distance to the nearest training feature.

    `score_samples` is the negative Euclidean distance; it is no log density.

    Attributes
    ----------
    points_ : array of shape (n_samples, n_features)
        The training features.
    """

    def _fit(self, X: Array) -> None:
        self.points_ = X.copy()

    def _score_samples(self, X: Array) -> Array:
        # One row at a time: differences are exact, where the expanded square cancels, and memory
        # stays bounded.
        return -np.array([cdist(row[None], self.points_).min() for row in X])


class Gaussian(AnomalyDetector):
    """A single Gaussian over the whole feature space, with a shrunk covariance.

    The anomaly score is half the squared Mahalanobis distance plus a constant.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean of the training features.
    cholesky_ : array of shape (n_features, n_features)
        Lower Cholesky factor of the shrunk covariance.

    References
    ----------
    O. Ledoit and M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
    J. Multivariate Anal. 88, 2004.
    """

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes: of two, the covariance is not shrunk."""
        return 3

    def _fit(self, X: Array) -> None:
        if len(X) < self.min_samples:
            raise ValueError(
                f"a Gaussian needs at least {self.min_samples} samples, got n_samples={len(X)}"
            )
        if np.ptp(X, axis=0).max() == 0:
            raise ValueError(f"the training features must vary, got n_samples={len(X)} equal rows")
        fitted = LedoitWolf(store_precision=False).fit(X)
        self.mean_ = fitted.location_
        name = "the shrunk covariance of the training features"
        self.cholesky_ = lower_cholesky(fitted.covariance_, name)

    def _score_samples(self, X: Array) -> Array:
        whitened = linalg.solve_triangular(self.cholesky_, (X - self.mean_).T, lower=True)
        log_det = 2 * np.log(np.diag(self.cholesky_)).sum()
        return -((whitened**2).sum(axis=0) + X.shape[1] * np.log(2 * np.pi) + log_det) / 2


class Constant(AnomalyDetector):
    """The same score for every image: the control whose AUROC is exactly 0.5."""

    def _fit(self, X: Array) -> None:
        self.n_samples_ = len(X)

    def _score_samples(self, X: Array) -> Array:
        return np.zeros(len(X))
