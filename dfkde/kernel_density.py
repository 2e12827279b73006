"""Gaussian kernel density estimate with full covariance, in the log domain."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import linalg
from scipy.special import logsumexp
from sklearn.base import BaseEstimator

from dfkde.base import Array

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
