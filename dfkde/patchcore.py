"""PatchCore as published: the distance to the nearest patch of a coreset of the training images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils import check_random_state

from dfkde.base import Array, check_integer
from dfkde.maps import ImageMaps, Layers, MapDetector, Scored, check_neighbourhood, patches

# Rows of distances to the whole coreset that are held at once.
_BLOCK = 128
# Of features, or of what they are projected to: their squares are compared in float32.
_LARGEST = 1e16


class PatchCore(MapDetector):
    """The distance of each patch to the nearest of a coreset of all training patches.

    `fit` holds the patches of all training images once, in float32, unless `max_patches` draws
    some of them. So a distance is exact to about 1e-7 of the features themselves: features that lie
    far from zero and close together lose digits.

    Parameters
    ----------
    coreset_ratio : float
        Share of the training patches in the coreset, in (0, 1]; as published 0.1 (0.25 and 0.01).
    n_neighbors : int
        Patches of the coreset that re-weight the image's score, at least 2.
    neighbourhood : int
        Side of the square over which each layer is averaged, in positions; as published 3.
    n_projected : int
        Dimensions of the random projection in which the coreset is chosen.
    max_patches : int, optional
        Of more training patches than this, so many are drawn before the coreset is chosen: an
        approximation, for the coreset's time grows with the square of the number of patches.
    random_state : int, RandomState instance or None
        Seed of the projection, of the first patch of the coreset, and of `max_patches`.

    Attributes
    ----------
    bank_ : array of shape (n_coreset, n_features)
        The coreset, in the order in which it was chosen.

    References
    ----------
    K. Roth, L. Pemula, J. Zepeda, B. Schoelkopf, T. Brox and P. Gehler, Towards Total Recall in
    Industrial Anomaly Detection, CVPR, 2022: algorithm 1, equations 6 and 7.
    """

    def __init__(
        self,
        coreset_ratio: float = 0.1,
        *,
        n_neighbors: int = 9,
        neighbourhood: int = 3,
        n_projected: int = 128,
        max_patches: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.coreset_ratio = coreset_ratio
        self.n_neighbors = n_neighbors
        self.neighbourhood = neighbourhood
        self.n_projected = n_projected
        self.max_patches = max_patches
        self.random_state = random_state

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes."""
        if not 0 < self.coreset_ratio <= 1:
            raise ValueError(f"coreset_ratio must lie in (0, 1], got {self.coreset_ratio!r}")
        check_integer("n_neighbors", self.n_neighbors, minimum=2)
        check_integer("n_projected", self.n_projected, minimum=1)
        check_neighbourhood(self.neighbourhood)
        if self.max_patches is not None:
            check_integer("max_patches", self.max_patches, minimum=1)
            self._size(self.max_patches)
        return 1

    def _size(self, n_patches: int) -> int:
        size = int(n_patches * self.coreset_ratio)
        if size < self.n_neighbors:
            raise ValueError(
                f"n_neighbors must be at most the size of the coreset, {size} of {n_patches}"
                f" patches, got {self.n_neighbors}"
            )
        return size

    def _fit(self, maps: ImageMaps) -> None:
        random = check_random_state(self.random_state)
        h, w = self._grid
        drawn = np.arange(len(maps) * h * w)
        if self.max_patches is not None and self.max_patches < len(drawn):
            drawn = np.sort(random.choice(len(drawn), self.max_patches, replace=False))
        size = self._size(len(drawn))
        projected = features = self._gathered(maps, drawn)
        if self.n_projected < features.shape[1]:
            projection = GaussianRandomProjection(self.n_projected, random_state=random)
            projected = projection.fit_transform(features).astype(np.float32)
        chosen = greedy_coreset(projected, size, first=int(random.randint(len(features))))
        self.bank_ = features[chosen].astype(np.float64)

    def _gathered(self, maps: ImageMaps, drawn: NDArray[np.intp]) -> NDArray[np.float32]:
        features = np.empty((len(drawn), self._n_channels), dtype=np.float32)
        each = self._grid[0] * self._grid[1]
        ends = np.searchsorted(drawn, np.arange(len(maps) + 1) * each)
        for k, layers in enumerate(maps):
            start, end = ends[k : k + 2]
            features[start:end] = self._patches(layers)[drawn[start:end] - k * each]
        return features

    def _score(self, layers: Layers) -> Scored:
        features = self._patches(layers)
        nearest = self._nearest(features)
        distance = np.linalg.norm(features - self.bank_[nearest], axis=1)
        top = int(distance.argmax())
        score = distance[top] * self._weight(features[top], nearest[top])
        return Scored(float(score), distance.reshape(self._grid))

    def _weight(self, feature: Array, nearest: int) -> float:
        """Return equation 7's factor, of the coreset's patches around the nearest one."""
        around = np.linalg.norm(self.bank_ - self.bank_[nearest], axis=1)
        near = np.argpartition(around, self.n_neighbors - 1)[: self.n_neighbors]
        distances = np.linalg.norm(feature - self.bank_[near], axis=1)
        own = np.linalg.norm(feature - self.bank_[nearest])
        return float(-np.expm1(-logsumexp(distances - own)))

    def _nearest(self, features: Array) -> NDArray[np.intp]:
        """Return the index of the nearest patch of the coreset for each feature, blockwise."""
        squared = np.einsum("ij,ij->i", self.bank_, self.bank_)
        blocks = (features[k : k + _BLOCK] for k in range(0, len(features), _BLOCK))
        return np.concatenate([(squared - 2 * one @ self.bank_.T).argmin(axis=1) for one in blocks])

    def _patches(self, layers: Layers) -> Array:
        return patches(layers, self._grid, neighbourhood=self.neighbourhood)


def greedy_coreset(points: NDArray[np.float32], size: int, *, first: int) -> NDArray[np.intp]:
    """Choose points (n, d) one by one, each the farthest from those chosen; return their indices.

    Exact up to the rounding of the squared distances: by the triangle inequality, a new point is
    no nearer than the nearest so far to what lies less than half as far from that as the two are
    apart; only the other points are compared with it.
    """
    largest = max(points.max(), -points.min())
    if not largest < _LARGEST:
        raise ValueError(f"features must be below {_LARGEST:g} for a coreset, got {largest:g}")
    points = points - points.mean(axis=0)
    norms = np.einsum("ij,ij->i", points, points)
    rounding = 1e-5 * norms.max()
    chosen, owner = np.empty(size, dtype=np.intp), np.zeros(len(points), dtype=np.intp)
    centres = np.empty((size, points.shape[1]), dtype=points.dtype)
    squared = np.full(len(points), np.inf, dtype=points.dtype)
    new = first
    for k in range(size):
        chosen[k], centres[k] = new, points[new]
        apart = norms[chosen[:k]] + norms[new] - 2 * (centres[:k] @ points[new])
        near = (
            np.flatnonzero(apart[owner] < 4 * squared + rounding) if k else np.arange(len(points))
        )
        # A copy of most points would take longer than to compare all.
        few = 8 * len(near) < len(points)
        products = points[near] @ points[new] if few else (points @ points[new])[near]
        to_new = norms[near] + norms[new] - 2 * products
        nearer = to_new < squared[near]
        squared[near[nearer]], owner[near[nearer]] = to_new[nearer], k
        squared[new] = -np.inf  # chosen once
        new = int(squared.argmax())
    return chosen
