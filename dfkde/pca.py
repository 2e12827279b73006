"""Principal component analysis with an exact decomposition and fixed signs."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator

from dfkde.base import Array

# The Gram matrix squares the condition of the problem: a principal direction is then exact to
# about eps * (largest eigenvalue / gap to the next one). Below this relative gap the full SVD
# is taken instead, so that scores agree with it to 1e-9 either way.
_SMALLEST_GAP = 1e-5


class PCA(BaseEstimator):
    """The leading principal components of the features.

    scikit-learn's `PCA` draws random numbers for wide data by default and keeps no residual; this
    one always decomposes exactly and its result does not depend on the order of the rows.

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
    residual_variance_ : float
        Mean unbiased variance over the n_features - k directions left out; 0 where none is.
    """

    def __init__(self, n_components: int = 16):
        self.n_components = n_components

    def fit(self, X: Array) -> Self:
        """Decompose the features.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Finite float64, never modified.

        Raises
        ------
        ValueError
            If the features vary in fewer than `n_components` directions.
        """
        n, d = X.shape
        k = self.n_components
        self.mean_ = X.mean(axis=0)
        centred = X - self.mean_
        directions = _leading_directions(centred, k)
        # Rayleigh-Ritz: the exact variances and axes within the space that they span.
        _, singular_values, rotation = linalg.svd(centred @ directions, full_matrices=False)
        self._check_rank(singular_values, X.shape)
        self.components_ = np.ascontiguousarray(_with_fixed_signs(rotation @ directions.T))
        self.variances_ = singular_values**2 / (n - 1)
        residual = centred - (centred @ self.components_.T) @ self.components_
        self.residual_variance_ = float((residual**2).sum() / (n - 1) / (d - k)) if d > k else 0.0
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
        threshold = singular_values[0] * max(shape) * np.finfo(np.float64).eps
        rank = int((singular_values > threshold).sum())
        if rank < self.n_components:
            raise ValueError(
                f"n_components={self.n_components} needs features that vary in as many directions,"
                f" got {rank} (n_samples={shape[0]}, n_features={shape[1]})"
            )


def _leading_directions(centred: Array, k: int) -> Array:
    """Give an orthonormal basis (n_features, k) of the leading principal subspace."""
    n, d = centred.shape
    wide = d > n
    gram = centred @ centred.T if wide else centred.T @ centred
    size = min(n, d)
    first = max(size - k - 1, 0)
    values, vectors = linalg.eigh(gram, subset_by_index=[first, size - 1])
    gap = values[-k] - (values[0] if size > k else 0.0)
    if not gap > _SMALLEST_GAP * values[-1]:
        return linalg.svd(centred, full_matrices=False)[2][:k].T
    leading = vectors[:, -k:]
    return linalg.qr(centred.T @ leading, mode="economic")[0] if wide else leading


def _with_fixed_signs(components: Array) -> Array:
    largest = np.abs(components).argmax(axis=1)
    return components * np.sign(components[np.arange(len(components)), largest])[:, None]
