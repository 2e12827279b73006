"""A kernel density at every position of a feature map."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from dfkde.base import Array


class PositionDensities:
    """Gaussian kernel densities, one at each position, of projected features.

    The kernels' covariance is the position's own, mixed with a share `shrinkage` in (0, 1] of the
    mean over all positions: at a position where the training images hardly differ, as in an empty
    corner, its own is singular.

    A subclass sets `mean_` and `components_`, by which features are projected, before the rest.
    """

    shrinkage: float
    mean_: Array
    components_: Array
    points_: Array

    @cached_property
    def norms_(self) -> Array:
        """Squared norms of the whitened points; detectors saved by older versions lack them."""
        return _squared_norms(self.points_)

    def _projected(self, features: Array) -> Array:
        return (features - self.mean_) @ self.components_.T

    def _fit_densities(self, points: Array) -> None:
        """Fit to projected features (h * w, n, k), which are whitened in place: they are large."""
        n_positions, n, k = points.shape
        largest = max(points.max(), -points.min())
        means, own = np.empty((n_positions, k)), np.empty((n_positions, k, k))
        for place, here in enumerate(points):
            means[place] = here.mean(axis=0)
            here -= means[place]
            own[place] = here.T @ here / (n - 1)
        mean = own.mean(axis=0)
        self._check_rank(mean, points.shape, largest)
        log_norm = np.empty(n_positions)
        for place, here in enumerate(points):
            covariance = own[place] + self.shrinkage * (mean - own[place])
            cholesky = np.linalg.cholesky(covariance) * n ** (-1 / (k + 4))
            own[place] = np.linalg.inv(cholesky)
            here[:] = here @ own[place].T
            log_det = 2 * np.log(np.diagonal(cholesky)).sum()
            log_norm[place] = -np.log(n) - (k * np.log(2 * np.pi) + log_det) / 2
        self.points_, self.norms_ = points, _squared_norms(points)
        self.position_means_, self.whitening_, self.log_norm_ = means, own, log_norm

    def _check_rank(self, mean: Array, shape: tuple[int, ...], largest: float) -> None:
        """Refuse a singular mean covariance: all hold a share of it, and so have its rank."""
        n_positions, n, k = shape
        eps = np.finfo(np.float64).eps
        values = np.linalg.eigvalsh(mean)
        rounding = (n * eps * largest) ** 2
        rank = int((values > n_positions * n * eps * values[-1] + rounding).sum())
        if rank < k:
            raise ValueError(
                f"n_components={k} needs feature maps that vary between the images in as many"
                f" directions, got {rank} (n_samples={n}, n_features={len(self.mean_)})"
            )

    def _anomaly_scores(self, features: Array) -> Array:
        """Return the negative log density (h * w,) of one image's features (h * w, d)."""
        centred = self._projected(features) - self.position_means_
        whitened = np.matmul(self.whitening_, centred[:, :, None])
        squared = _squared_norms(whitened.transpose(0, 2, 1)) + self.norms_
        squared -= 2 * np.matmul(self.points_, whitened)[:, :, 0]
        return -(np.asarray(logsumexp(-squared / 2, axis=1)) + self.log_norm_)


def _squared_norms(points: Array) -> Array:
    return np.asarray(np.einsum("pij,pij->pi", points, points))
