"""DFKDE at every position of the feature map, ours: what DFKDE asks of images, asked of patches."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.linalg.blas import dsyrk
from scipy.ndimage import gaussian_filter

from dfkde.base import Array, check_integer
from dfkde.density import with_fixed_signs
from dfkde.maps import ImageMaps, Layers, MapDetector, Scored, check_neighbourhood, patches
from dfkde.position_density import PositionDensities


class PatchKDE(PositionDensities, MapDetector):
    """A Gaussian kernel density at every position of the finest layer.

    All layers are averaged over neighbouring positions and brought to the finest grid. The features
    of all positions are projected to their common principal components; at each position there is
    one kernel for each training image. The value of the anomaly map is the negative natural log
    density; the image's score is the maximum of the map smoothed by a Gaussian.

    Parameters
    ----------
    n_components : int or float
        Principal components kept; a number below 1 is the share of the variance of the training
        images' patches that the fewest components that are kept explain.
    neighbourhood : int
        Side of the square over which each layer is averaged, in positions.
    shrinkage : float
        Share, in (0, 1], of the mean covariance of all positions in the covariance of each.
    sigma : float
        Standard deviation of the smoothing before the image's score, in positions.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
    components_ : array of shape (k, n_features)
        The principal components.
    position_means_, whitening_, points_, norms_, log_norm_ : arrays
        The densities: the model keeps 8 * h * w * k * (n_samples + k) bytes.

    See Also
    --------
    dfkde.DFKDE : One density, of the pooled features.
    dfkde.localizers.PatchDensity : The same densities on the map of the pooled features.
    """

    def __init__(
        self,
        n_components: float = 0.99,
        *,
        neighbourhood: int = 3,
        shrinkage: float = 0.1,
        sigma: float = 1.0,
    ):
        self.n_components = n_components
        self.neighbourhood = neighbourhood
        self.shrinkage = shrinkage
        self.sigma = sigma

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes: of one, there is no covariance."""
        check_neighbourhood(self.neighbourhood)
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in (0, 1], got {self.shrinkage!r}")
        if not 0 <= self.sigma < np.inf:
            raise ValueError(f"sigma must be at least 0, got {self.sigma!r}")
        if not isinstance(self.n_components, float):
            check_integer("n_components", self.n_components, minimum=1)
        elif not 0 < self.n_components < 1:
            raise ValueError(
                "n_components must be an integer of at least 1 or a share of the variance in"
                f" (0, 1), got {self.n_components!r}"
            )
        return 2

    def _fit(self, maps: ImageMaps) -> None:
        if self.n_components > self._n_channels:
            raise ValueError(
                f"n_components must be at most the channels of all layers, {self._n_channels},"
                f" got {self.n_components}"
            )
        self._fit_components(maps)
        h, w = self._grid
        points = np.empty((h * w, len(maps), len(self.components_)))
        for number, layers in enumerate(maps):
            points[:, number] = self._projected(self._patches(layers))
        self._fit_densities(points)

    def _fit_components(self, maps: ImageMaps) -> None:
        """Add up mean and scatter of all patches, image by image, and decompose the scatter."""
        d, n = self._n_channels, 0
        self.mean_, scatter = np.zeros(d), np.zeros((d, d), order="F")
        for layers in maps:
            new = self._patches(layers)
            mean = new.mean(axis=0)
            shift, before, n = mean - self.mean_, n, n + len(new)
            # In place and one triangle only: half the work, and no large temporary.
            scatter = dsyrk(1.0, (new - mean).T, beta=1.0, c=scatter, overwrite_c=True)
            weight = before * len(new) / n
            scatter = dsyrk(weight, shift[:, None], beta=1.0, c=scatter, overwrite_c=True)
            self.mean_ = self.mean_ + shift * (len(new) / n)
        values, vectors = linalg.eigh(scatter, lower=False)
        k = self._n_kept(values[::-1])
        self.components_ = with_fixed_signs(vectors[:, ::-1].T[:k])

    def _n_kept(self, values: Array) -> int:
        """Return how many components are kept, by the eigenvalues in decreasing order."""
        if not isinstance(self.n_components, float):
            return int(self.n_components)
        enough = np.searchsorted(np.cumsum(values), self.n_components * values.sum())
        return min(int(enough) + 1, len(values))

    def _score(self, layers: Layers) -> Scored:
        anomaly_map = self._anomaly_scores(self._patches(layers)).reshape(self._grid)
        smoothed = gaussian_filter(anomaly_map, self.sigma) if self.sigma else anomaly_map
        return Scored(float(smoothed.max()), anomaly_map)

    def _patches(self, layers: Layers) -> Array:
        return patches(layers, self._grid, neighbourhood=self.neighbourhood)
