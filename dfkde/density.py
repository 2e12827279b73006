"""DFKDE as published, and its extension to a density over the whole feature space."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import linalg
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from dfkde.base import AnomalyDetector, Array, check_integer
from dfkde.pca import PCA, rounding

# Distances held at once, so that memory stays bounded: half a MiB, and as much for each step.
_BLOCK = 2**16


class GaussianKDE(BaseEstimator):
    """Gaussian kernel density with the data's covariance, scaled by Scott's factor.

    The same density as `scipy.stats.gaussian_kde`, whitened once when fitted so that scoring is
    one matrix product and a log-sum-exp: finite and strictly ordered however far the point is.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean of the training points, subtracted first for accuracy.
    cholesky_ : array of shape (n_features, n_features)
        Lower Cholesky factor of the kernel's covariance.
    points_ : array of shape (n_samples, n_features)
        Training points, whitened by it.
    log_norm_ : float
        Log of the kernels' common factor, -log(n) - log(det(2 pi H)) / 2.

    References
    ----------
    D. W. Scott, Multivariate Density Estimation, 1992, chapter 6.
    """

    def fit(self, X: Array) -> Self:
        """Place a kernel on each training point.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Finite float64 with a covariance of full rank, never modified.

        Raises
        ------
        ValueError
            If the covariance is singular to rounding.
        """
        n, k = X.shape
        self.mean_ = X.mean(axis=0)
        centred = X - self.mean_
        scott = n ** (-1 / (k + 4))
        covariance = centred.T @ centred / (n - 1) * scott**2
        self.cholesky_ = lower_cholesky(covariance, "the covariance of the training points")
        self.points_ = self._whitened(X)
        log_det = 2 * np.log(np.diag(self.cholesky_)).sum()
        self.log_norm_ = float(-np.log(n) - (k * np.log(2 * np.pi) + log_det) / 2)
        return self

    def score_samples(self, X: Array) -> Array:
        """Natural log density (n_samples,) at the points (n_samples, n_features).

        It is -inf where a whitened distance passes 1e154, for its square passes float64.
        """
        whitened = self._whitened(X)
        blocks = range(0, len(X), max(1, _BLOCK // len(self.points_)))
        size = blocks.step
        parts = [self._log_sum(whitened[start : start + size]) for start in blocks]
        return np.concatenate(parts) + self.log_norm_

    def _log_sum(self, whitened: Array) -> Array:
        squared = _squared_norms(whitened)[:, None] + _squared_norms(self.points_)
        squared -= 2 * whitened @ self.points_.T
        return np.asarray(logsumexp(-squared / 2, axis=1))

    def _whitened(self, X: Array) -> Array:
        solved = linalg.solve_triangular(self.cholesky_, (X - self.mean_).T, lower=True)
        return np.ascontiguousarray(solved.T)


def lower_cholesky(covariance: Array, name: str) -> Array:
    """Return the lower Cholesky factor (k, k) of a covariance, in C order.

    Raises
    ------
    ValueError
        If the covariance, by its name, is not of full rank.
    """
    try:
        return np.ascontiguousarray(linalg.cholesky(covariance, lower=True))
    except linalg.LinAlgError as error:
        raise ValueError(
            f"{name} must be of full rank, got {len(covariance)} directions of which some do not"
            " vary"
        ) from error


def _squared_norms(X: Array) -> Array:
    return np.einsum("ij,ij->i", X, X)


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
    random_state : int, RandomState instance or None
        Seed of that subset. Without a subset nothing is random.

    Raises
    ------
    ValueError
        When fitted on no more than n_components + 1 samples, or on features that vary in fewer
        than n_components directions.

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

    References
    ----------
    D. W. Scott, Multivariate Density Estimation, 1992, chapter 6, for the bandwidth.
    """

    # The projection widens features as it centres them: no copy of all is needed.
    _dtypes = (np.float64, np.float32)

    def __init__(
        self,
        n_components: int = 16,
        *,
        max_training_points: int = 40_000,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.n_components = n_components
        self.max_training_points = max_training_points
        self.random_state = random_state

    @property
    def min_samples(self) -> int:
        """How many images `fit` needs at least: with fewer, the density is undefined."""
        return check_integer("n_components", self.n_components, minimum=1) + 2

    def _fit(self, X: Array) -> None:
        self._check(X)
        self._fit_density(self._subset(X))

    def _fit_density(self, X: Array) -> None:
        self.pca_ = PCA(self.n_components).fit(X)
        self.kde_ = GaussianKDE().fit(self.pca_.transform(X))

    def _score_samples(self, X: Array) -> Array:
        return self.kde_.score_samples(self.pca_.transform(X))

    def _check(self, X: Array) -> None:
        k, least = self.n_components, self.min_samples
        most = check_integer("max_training_points", self.max_training_points, minimum=2)
        shape = f"(n_samples={X.shape[0]}, n_features={X.shape[1]})"
        if X.shape[1] < k:
            raise ValueError(f"n_components={k} needs at least {k} features, got {shape}")
        if len(X) < least:
            raise ValueError(f"n_components={k} needs at least {least} samples, got {shape}")
        if most < least:
            raise ValueError(
                f"n_components={k} needs max_training_points of at least {least}, got {most}"
            )

    def _subset(self, X: Array) -> Array:
        if len(X) <= self.max_training_points:
            return X
        random = check_random_state(self.random_state)
        return X[random.choice(len(X), self.max_training_points, replace=False)]


class DFKDEResidual(DFKDE):
    """DFKDE with the density of what the projection leaves out.

    Adds the log density of the residual, isotropic Gaussian in the n_features - n_components
    directions left out, as in probabilistic PCA. The sum is a proper log density over the whole
    feature space; with all components kept it equals DFKDE's.

    Attributes
    ----------
    residual_variance_ : float
        Mean unbiased variance of the training features over the directions left out; 0 where
        there is none.

    References
    ----------
    M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis, J. R. Stat. Soc.
    B 61, 1999, equation 8 for the variance.

    Examples
    --------
    A feature off the training data's plane is anomalous although its projection is not.

    >>> import numpy as np
    >>> from dfkde import DFKDE, DFKDEResidual
    >>> normal = np.random.default_rng(0).normal(size=(100, 3)) * [1, 1, 0.1]
    >>> off = [[0.0, 0.0, 1.0]]
    >>> plain, extended = DFKDE(2).fit(normal), DFKDEResidual(2).fit(normal)
    >>> bool(plain.anomaly_score(off) < plain.anomaly_score([[2.0, 0.0, 0.0]]))
    True
    >>> bool(extended.anomaly_score(off) > extended.anomaly_score([[2.0, 0.0, 0.0]]))
    True
    """

    def _fit_density(self, X: Array) -> None:
        super()._fit_density(X)
        left_out = X.shape[1] - self.n_components
        self.residual_variance_ = 0.0
        if left_out:
            total = self.pca_.squared_residual(X).sum()
            self.residual_variance_ = float(total / (len(X) - 1) / left_out)
            self._check_residual(X)

    def _score_samples(self, X: Array) -> Array:
        log_density = super()._score_samples(X)
        left_out = X.shape[1] - self.n_components
        if not left_out:
            return log_density
        squared = self.pca_.squared_residual(X) / self.residual_variance_
        log_norm = left_out * np.log(2 * np.pi * self.residual_variance_)
        return log_density - (squared + log_norm) / 2

    def _check_residual(self, X: Array) -> None:
        relative = (max(X.shape) * np.finfo(np.float64).eps) ** 2 * self.pca_.variances_[0]
        if self.residual_variance_ <= relative + rounding(X) ** 2:
            raise ValueError(
                f"the training features vary in n_components={self.n_components} directions only,"
                " so there is no residual to model; use DFKDE, or fewer components"
            )
