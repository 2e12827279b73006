"""Principal component analysis with an exact decomposition and fixed signs."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator

from dfkde.base import Array

# The eigenvectors of a Gram matrix are exact to about eps * (largest eigenvalue / gap between
# the last eigenvalue kept and the first left out). With a relative gap above this one the
# subspace, and so every score, agrees with the full SVD's to 1e-9; below, the SVD is taken.
_SMALLEST_GAP = 1e-5


class PCA(BaseEstimator):
    """The leading principal components of the features.

    Always an exact decomposition; the result does not depend on the order of the rows. Where
    it is safe to, it goes through the smaller Gram matrix, several times faster than the SVD.

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
            Finite float64, never modified.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If the features vary in fewer than `n_components` directions.
        """
        self.mean_ = X.mean(axis=0)
        singular_values, components = leading_components(X - self.mean_, self.n_components)
        self._check_rank(singular_values, X.shape)
        self.components_ = with_fixed_signs(components)
        self.variances_ = singular_values**2 / (len(X) - 1)
        return self

    def transform(self, X: Array) -> Array:
        """Project features (n_samples, n_features) to components (n_samples, k)."""
        return (X - self.mean_) @ self.components_.T

    def squared_residual(self, X: Array) -> Array:
        """Squared distance (n_samples,) of features from the principal subspace."""
        centred = X - self.mean_
        residual = centred - (centred @ self.components_.T) @ self.components_
        return np.einsum("ij,ij->i", residual, residual)

    def _check_rank(self, singular_values: Array, shape: tuple[int, ...]) -> None:
        rounding = singular_values[0] * max(shape) * np.finfo(np.float64).eps
        rank = int((singular_values > rounding).sum())
        if rank < self.n_components:
            raise ValueError(
                f"n_components={self.n_components} needs features that vary in as many directions,"
                f" got {rank} (n_samples={shape[0]}, n_features={shape[1]})"
            )


def leading_components(centred: Array, k: int) -> tuple[Array, Array]:
    """Decompose centred features (n_samples, n_features) to their k leading components.

    Returns
    -------
    singular_values : array of shape (k,)
        In decreasing order.
    components : array of shape (k, n_features)
        Orthonormal rows, of undetermined sign.
    """
    n, d = centred.shape
    leading = _leading_eigenvectors(centred @ centred.T if d > n else centred.T @ centred, k)
    # Rayleigh-Ritz: the eigenvectors give the subspace; the singular values and axes within it
    # come from the features themselves, for the Gram matrix has squared their condition.
    if leading is None:
        _, singular_values, components = linalg.svd(centred, full_matrices=False)
    elif d > n:
        _, singular_values, components = linalg.svd(leading.T @ centred, full_matrices=False)
    else:
        _, singular_values, rotation = linalg.svd(centred @ leading, full_matrices=False)
        components = rotation @ leading.T
    return singular_values[:k], components[:k]


def with_fixed_signs(components: Array) -> Array:
    """Make the entry of largest magnitude of each row positive, in a new C-contiguous array."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return np.ascontiguousarray(components * signs[:, None])


def _leading_eigenvectors(gram: Array, k: int) -> Array | None:
    """Give k eigenvectors (n, k) of a Gram matrix, or None where they would be inexact."""
    n = len(gram)
    values, vectors = linalg.eigh(gram, subset_by_index=[max(n - k - 1, 0), n - 1])
    first_left_out = values[0] if n > k else 0.0
    if not values[-k] - first_left_out > _SMALLEST_GAP * values[-1]:
        return None
    return vectors[:, -k:]


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
