"""DFKDE as published, PCA and a Gaussian kernel density, and its extension by the residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy import linalg
from scipy.linalg.blas import dsyrk
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from dfkde.base import AnomalyDetector, Array, check_integer

# Blocks bound the memory: 4 MiB of features centred at once, half a MiB of distances.
_CENTRED_BLOCK = 2**19
_DISTANCE_BLOCK = 2**16

# Eigenvectors of a Gram matrix are exact to about eps * largest eigenvalue / gap, the gap between
# the last eigenvalue that counts and the first left out. Up to this error the subspace, and so
# every score, agrees with the full SVD's to 1e-9, for a point may lie a thousand times as far
# outside of the subspace as training points reach within; above, the SVD is taken.
_LARGEST_ERROR = 3e-13
# Eigenvectors beyond those wanted: the gap behind them is far wider.
_SPARE = 4


class DFKDE(AnomalyDetector):
    """Deep feature kernel density estimation.

    The features are projected to their leading principal components; their density there is
    estimated with Gaussian kernels. The anomaly score is the negative natural log density.

    Parameters
    ----------
    n_components : int
        Principal components kept, as published 16. `fit` needs at least two images more, and
        features that vary in as many directions.
    max_training_points : int
        With more training images than this, a random subset of this size is used.
    random_state : int, RandomState instance or None
        Seed of that subset. Without a subset nothing is random.

    Attributes
    ----------
    pca_ : PCA
        The projection.
    kde_ : GaussianKDE
        The density of the projected training features.

    References
    ----------
    D. W. Scott, Multivariate Density Estimation, 1992, chapter 6, for the bandwidth.

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

    # The projection widens features as it centres them: no float64 copy of all is needed.
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
        """Smallest number of images that `fit` takes: with fewer, the density is undefined."""
        return check_integer("n_components", self.n_components, minimum=1) + 2

    def _fit(self, X: Array) -> None:
        self._check(X)
        if len(X) > self.max_training_points:
            random = check_random_state(self.random_state)
            X = X[random.choice(len(X), self.max_training_points, replace=False)]
        self._fit_density(X)

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

    def _fit_density(self, X: Array) -> None:
        self.pca_ = PCA(self.n_components).fit(X)
        self.kde_ = GaussianKDE().fit(self.pca_.transform(X))

    def _score_samples(self, X: Array) -> Array:
        return self.kde_.score_samples(self.pca_.transform(X))


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
    >>> off, within = [[0.0, 0.0, 1.0]], [[2.0, 0.0, 0.0]]
    >>> plain, extended = DFKDE(2).fit(normal), DFKDEResidual(2).fit(normal)
    >>> bool(plain.anomaly_score(off) < plain.anomaly_score(within))
    True
    >>> bool(extended.anomaly_score(off) > extended.anomaly_score(within))
    True
    """

    def _fit_density(self, X: Array) -> None:
        super()._fit_density(X)
        left_out = X.shape[1] - self.n_components
        self.residual_variance_ = 0.0
        if left_out:
            total = self.pca_.squared_residual(X).sum()
            self.residual_variance_ = float(total / (len(X) - 1) / left_out)
        relative = (max(X.shape) * np.finfo(np.float64).eps) ** 2 * self.pca_.variances_[0]
        if left_out and self.residual_variance_ <= relative + _rounding(X) ** 2:
            raise ValueError(
                f"the training features vary in n_components={self.n_components} directions only,"
                " so there is no residual to model; use DFKDE, or fewer components"
            )

    def _score_samples(self, X: Array) -> Array:
        log_density = super()._score_samples(X)
        left_out = X.shape[1] - self.n_components
        if not left_out:
            return log_density
        squared = self.pca_.squared_residual(X) / self.residual_variance_
        log_norm = left_out * np.log(2 * np.pi * self.residual_variance_)
        return log_density - (squared + log_norm) / 2


class GaussianKDE(BaseEstimator):
    """Gaussian kernel density with the data's covariance, scaled by Scott's factor.

    The density of `scipy.stats.gaussian_kde`, whitened once in `fit` so that scoring is one
    matrix product and a log-sum-exp: finite and strictly ordered however far the point is.
    """

    def fit(self, X: Array) -> Self:
        """Place a kernel on each training point (n_samples, n_features), finite float64."""
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

        It is -inf where a whitened distance exceeds 1e154, for its square overflows float64.
        """
        whitened = self._whitened(X)
        size = max(1, _DISTANCE_BLOCK // len(self.points_))
        norms, parts = _squared_norms(self.points_), []
        for i in range(0, len(X), size):
            block = whitened[i : i + size]
            squared = _squared_norms(block)[:, None] + norms
            squared -= 2 * block @ self.points_.T
            parts.append(logsumexp(-squared / 2, axis=1))
        return np.concatenate(parts) + self.log_norm_

    def _whitened(self, X: Array) -> Array:
        solved = linalg.solve_triangular(self.cholesky_, (X - self.mean_).T, lower=True)
        return np.ascontiguousarray(solved.T)


class PCA(BaseEstimator):
    """The leading principal components of the features, by an exact decomposition.

    Where it is as exact, the smaller Gram matrix is decomposed, several times faster than the SVD.
    The rows of `components_` are orthonormal, by decreasing variance, and the entry of largest
    magnitude of each is positive; `variances_` are unbiased.
    """

    def __init__(self, n_components: int = 16):
        self.n_components = n_components

    def fit(self, X: Array, y: object = None) -> Self:
        """Decompose finite features (n_samples, n_features), float64 or float32, in float64."""
        k, (n, d) = self.n_components, X.shape
        if k > min(n, d):
            raise self._rank_error(min(n, d), X)
        self.mean_ = exact_mean(X)
        decompose = _of_few_samples if n < d else _of_many_samples
        singular_values, components = decompose(X, self.mean_, k) or _svd(X, self.mean_, k)
        relative = singular_values[0] * max(n, d) * np.finfo(np.float64).eps
        rank = int((singular_values > relative + _rounding(X) * np.sqrt(X.size)).sum())
        if rank < k:
            raise self._rank_error(rank, X)
        self.components_ = with_fixed_signs(components)
        self.variances_ = singular_values**2 / (n - 1)
        return self

    def transform(self, X: Array) -> Array:
        """Project features (n_samples, n_features) to components (n_samples, k)."""
        return _projected(X, self.mean_, self.components_.T)

    def squared_residual(self, X: Array) -> Array:
        """Squared distance (n_samples,) of features from the principal subspace."""
        V = self.components_
        return np.concatenate([_squared_norms(c - (c @ V.T) @ V) for c in _centred(X, self.mean_)])

    def _rank_error(self, rank: int, X: Array) -> ValueError:
        return ValueError(
            f"n_components={self.n_components} needs features that vary in as many directions,"
            f" got {rank} (n_samples={X.shape[0]}, n_features={X.shape[1]})"
        )


def exact_mean(X: Array) -> Array:
    """Mean (n_features,) of features (n_samples, n_features), to the last bit but one.

    The error of a plain sum grows with the number of rows: equal rows would seem to vary.
    """
    mean: Array = X.mean(axis=0, dtype=np.float64)
    return mean + sum(centred.sum(axis=0) for centred in _centred(X, mean)) / len(X)


def lower_cholesky(covariance: Array, name: str) -> Array:
    """Return the lower Cholesky factor (k, k), in C order; a singular matrix is a ValueError."""
    try:
        return np.ascontiguousarray(linalg.cholesky(covariance, lower=True))
    except linalg.LinAlgError as error:
        raise ValueError(
            f"{name} must be of full rank, got {len(covariance)} directions of which some do not"
            " vary"
        ) from error


def leading_components_of_scatter(scatter: Array, k: int) -> Array:
    """Return the k leading components (k, n_features) of a scatter matrix, of fixed sign.

    Only its upper triangle is read.
    """
    d = len(scatter)
    _, vectors = linalg.eigh(scatter, lower=False, subset_by_index=[d - k, d - 1])
    return with_fixed_signs(vectors[:, ::-1].T)


def _svd(X: Array, mean: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest singular values about the mean, and their components (k, n_features)."""
    _, singular_values, components = linalg.svd(X - mean, full_matrices=False)
    return singular_values[:k], components[:k]


def _of_few_samples(X: Array, mean: Array, k: int) -> tuple[Array, Array] | None:
    """Do the same by the samples' Gram matrix, or return None where that would be inexact."""
    centred = X - mean
    small = _leading_eigenvectors(centred @ centred.T, k)
    if small is None:
        return None
    # Rayleigh-Ritz: the eigenvectors give a subspace; the singular values and axes within it
    # come from the features themselves, for the Gram matrix has squared their condition.
    large, triangle = linalg.qr(centred.T @ small, mode="economic")
    left, singular_values, _ = linalg.svd(triangle)
    return singular_values[:k], (large @ left).T[:k]


def _of_many_samples(X: Array, mean: Array, k: int) -> tuple[Array, Array] | None:
    """Do the same by the features' scatter matrix, added up in blocks of samples."""
    scatter = np.zeros((X.shape[1], X.shape[1]), order="F")
    for centred in _centred(X, mean):
        # In place and one triangle only: half the work, and no large temporary.
        scatter = dsyrk(1.0, centred.T, beta=1.0, c=scatter, lower=True, overwrite_c=True)
    small = _leading_eigenvectors(scatter, k)
    if small is None:
        return None
    _, triangle = linalg.qr(_projected(X, mean, small), mode="economic")
    _, singular_values, right = linalg.svd(triangle)
    return singular_values[:k], (right @ small.T)[:k]


def _leading_eigenvectors(gram: Array, k: int) -> Array | None:
    """Return leading eigenvectors of a Gram matrix, or None where the first k would be inexact.

    A few more than k: those near the k-th, which it mixes with, are among them. Only the lower
    triangle is read, and the matrix is overwritten.
    """
    n = len(gram)
    m = min(k + _SPARE, n)
    values, vectors = linalg.eigh(
        gram, overwrite_a=True, subset_by_index=[max(n - m - 1, 0), n - 1]
    )
    gap = values[-k] - (values[0] if n > m else 0.0)
    if not np.finfo(np.float64).eps * values[-1] < _LARGEST_ERROR * gap:
        return None
    return np.asarray(vectors[:, : -m - 1 : -1])


def _centred(X: Array, mean: Array) -> Iterator[Array]:
    """Yield the features less their mean, in blocks of samples: each overwrites the last."""
    rows = max(1, _CENTRED_BLOCK // X.shape[1])
    block = np.empty((min(rows, len(X)), X.shape[1]))
    for start in range(0, len(X), rows):
        part = X[start : start + rows]
        yield np.subtract(part, mean, out=block[: len(part)])


def _projected(X: Array, mean: Array, axes: Array) -> Array:
    """Project features about their mean to the columns of axes (n_features, k)."""
    return np.concatenate([centred @ axes for centred in _centred(X, mean)])


def with_fixed_signs(components: Array) -> Array:
    """Make the entry of largest magnitude of each row positive, in a new C-contiguous array."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return np.ascontiguousarray(components * signs[:, None])


def _rounding(X: Array) -> float:
    """Return how far a difference of two features of this size may be off by rounding alone."""
    return float(max(X.max(), -X.min()) * np.finfo(np.float64).eps)


def _squared_norms(X: Array) -> Array:
    return np.einsum("ij,ij->i", X, X)
