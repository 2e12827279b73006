"""Principal component analysis with an exact decomposition and fixed signs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy import linalg
from scipy.linalg.blas import dsyrk
from sklearn.base import BaseEstimator

from dfkde.base import Array

# Eigenvectors of a Gram matrix are exact to about eps * largest eigenvalue / gap, the gap between
# the last eigenvalue that counts and the first left out. Up to this error the subspace, and so
# every score, agrees with the full SVD's to 1e-9, for a point may lie a thousand times as far
# outside of the subspace as training points reach within; above, the SVD is taken.
_LARGEST_ERROR = 3e-13
# Eigenvectors beyond those wanted: the gap behind them is far wider, and near ones come apart by
# the features themselves.
_SPARE = 4
# Features centred, and widened to float64, at once, so that many need no second copy: 4 MiB.
_BLOCK = 2**19


class PCA(BaseEstimator):
    """The leading principal components of the features.

    Always an exact decomposition; the result does not depend on the order of the rows. Where
    it is as exact, it goes through the smaller Gram matrix, several times faster than the SVD.

    Parameters
    ----------
    n_components : int
        Number of components kept, k.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean of the training features.
    components_ : array of shape (k, n_features)
        Orthonormal directions by decreasing variance; the entry of largest magnitude of each is
        positive.
    variances_ : array of shape (k,)
        Unbiased variance of the training features along each direction.
    """

    def __init__(self, n_components: int = 16):
        self.n_components = n_components

    def fit(self, X: Array, y: object = None) -> Self:
        """Decompose the features.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Finite float64 or float32, never modified; all is computed in float64.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If the features vary in fewer than `n_components` directions.
        """
        if self.n_components > min(X.shape):
            raise self._rank_error(min(X.shape), X)
        self.mean_ = exact_mean(X)
        singular_values, components = leading_components(X, self.mean_, k=self.n_components)
        self._check_rank(singular_values, X)
        self.components_ = with_fixed_signs(components)
        self.variances_ = singular_values**2 / (len(X) - 1)
        return self

    def transform(self, X: Array) -> Array:
        """Project features (n_samples, n_features) to components (n_samples, k)."""
        return _projected(X, self.mean_, self.components_.T)

    def squared_residual(self, X: Array) -> Array:
        """Squared distance (n_samples,) of features from the principal subspace."""
        return np.concatenate([self._squared_residual(c) for c in _centred(X, self.mean_)])

    def _squared_residual(self, centred: Array) -> Array:
        residual = centred - (centred @ self.components_.T) @ self.components_
        return np.einsum("ij,ij->i", residual, residual)

    def _check_rank(self, singular_values: Array, X: Array) -> None:
        relative = singular_values[0] * max(X.shape) * np.finfo(np.float64).eps
        rank = int((singular_values > relative + rounding(X) * np.sqrt(X.size)).sum())
        if rank < self.n_components:
            raise self._rank_error(rank, X)

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


def rounding(X: Array) -> float:
    """Return how far a difference of two features of this size may be off by rounding alone."""
    return float(max(X.max(), -X.min()) * np.finfo(np.float64).eps)


def leading_components(X: Array, mean: Array, *, k: int) -> tuple[Array, Array]:
    """Decompose features (n_samples, n_features) about their mean to k leading components.

    Returns
    -------
    singular_values : array of shape (k,)
        In decreasing order.
    components : array of shape (k, n_features)
        Orthonormal rows, of undetermined sign.
    """
    decompose = _of_few_samples if X.shape[0] < X.shape[1] else _of_many_samples
    found = decompose(X, mean, k)
    if found is None:
        _, singular_values, components = linalg.svd(X - mean, full_matrices=False)
        return singular_values[:k], components[:k]
    return found


def _of_few_samples(X: Array, mean: Array, k: int) -> tuple[Array, Array] | None:
    """Decompose by the Gram matrix of the samples, or give None where it would be inexact."""
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
    """Do the same by the scatter matrix of the features, added up in blocks of samples."""
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


def _centred(X: Array, mean: Array) -> Iterator[Array]:
    """Yield the features less their mean, in blocks of samples: each overwrites the last."""
    rows = max(1, _BLOCK // X.shape[1])
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


def _leading_eigenvectors(gram: Array, k: int) -> Array | None:
    """Give leading eigenvectors of a Gram matrix, or None where k would be inexact in them.

    A few more than k: those near the last one wanted, which it mixes with, are among them. Only
    the lower triangle is read, and the matrix is given up, for the sake of memory.
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


def leading_components_of_scatter(scatter: Array, k: int) -> Array:
    """Decompose a scatter matrix (n_features, n_features), for data too large to hold at once.

    Only its upper triangle is read.

    Returns
    -------
    array of shape (k, n_features)
        Orthonormal rows by decreasing variance, of fixed sign.
    """
    d = len(scatter)
    _, vectors = linalg.eigh(scatter, lower=False, subset_by_index=[d - k, d - 1])
    return with_fixed_signs(vectors[:, ::-1].T)
