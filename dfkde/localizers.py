"""Anomaly maps: which positions of the feature map make the image anomalous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk
from scipy.ndimage import gaussian_filter1d
from sklearn.base import BaseEstimator

from dfkde.base import AnomalyDetector, Array, check_integer
from dfkde.density import leading_components_of_scatter
from dfkde.position_density import PositionDensities
from dfkde.registry import check_localizer

FeatureMap = np.ndarray[Any, Any]
Maps = Iterable[FeatureMap]


def localizer(name: str) -> Localizer | None:
    """Return the localizer of this name, not yet fitted.

    Parameters
    ----------
    name : {"occlusion", "patch_density", "uniform", "none"}
        None is returned for `none`.

    Raises
    ------
    ValueError
        If there is no such localizer.

    Examples
    --------
    >>> localizer("patch_density")
    PatchDensity()
    """
    check_localizer(name)
    classes: dict[str, type[Localizer]] = {
        "occlusion": Occlusion,
        "patch_density": PatchDensity,
        "uniform": Uniform,
    }
    return None if name == "none" else classes[name]()


def render(anomaly_map: Array, *, size: tuple[int, int], sigma: float = 4.0) -> Array:
    """Bring an anomaly map to the size of an image.

    Bilinear upsampling (pixel centres at half-integers, edges repeated), then Gaussian smoothing.

    Parameters
    ----------
    anomaly_map : array of shape (h, w)
        One value for each position of the feature map.
    size : tuple of int
        Height and width of the result, in pixels.
    sigma : float
        Standard deviation of the smoothing in pixels of an image 256 pixels high or wide; it
        grows in proportion with each side. 0 for none.

    Returns
    -------
    array of shape `size`
        float64; constant to the last bit where the map is.

    Examples
    --------
    >>> import numpy as np
    >>> render(np.array([[0.0, 1.0]]), size=(1, 4), sigma=0)
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    h, w = anomaly_map.shape
    height, width = size
    # The weights of a pixel sum to 1 up to rounding only, which would break a tie of all pixels.
    if (anomaly_map == anomaly_map[0, 0]).all():
        return np.full(size, anomaly_map[0, 0], dtype=np.float64)
    # Both steps are linear and separable, so that the whole is one small matrix for each axis.
    return axis_operator(h, height, sigma) @ anomaly_map @ axis_operator(w, width, sigma).T


@lru_cache(maxsize=32)
def axis_operator(n: int, size: int, sigma: float) -> Array:
    """Return the matrix (size, n) that upsamples and smooths one axis."""
    centres = (np.arange(size) + 0.5) * n / size - 0.5
    upsample = np.stack([np.interp(centres, np.arange(n), row) for row in np.eye(n)], axis=1)
    operator = gaussian_filter1d(upsample, sigma * size / 256, axis=0) if sigma else upsample
    operator.setflags(write=False)
    return operator


class Localizer(BaseEstimator, ABC):
    """Gives each position of a feature map an anomaly score, with a fitted model."""

    @abstractmethod
    def fit(self, model: AnomalyDetector, train_features: ArrayLike, train_maps: Maps) -> Self:
        """Learn from the training images.

        Parameters
        ----------
        model : AnomalyDetector
            Fitted on the pooled features.
        train_features : array of shape (n_samples, n_features)
            The pooled features that it was fitted on.
        train_maps : iterable of arrays of shape (n_features, h, w)
            The feature maps of the same images in the same order. Only one is held at a time.
            `PatchDensity` reads them twice, so that a generator will not do.

        Raises
        ------
        ValueError
            If the maps are not those of the features: another number, another width, several
            shapes, NaN or infinity; or if they are too few or too much alike.
        """

    @abstractmethod
    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Score the positions of one image.

        Parameters
        ----------
        feature_map : array of shape (n_features, h, w)
            Its mean over the positions is the pooled feature. Never modified.

        Returns
        -------
        array of shape (h, w)
            float64, unbounded, the higher the more anomalous.

        Raises
        ------
        ValueError
            If its shape is not that of the training maps, or it holds NaN or infinity.
        """


class Occlusion(Localizer):
    """How much of the image's anomaly score a position carries.

    The pooled feature is the mean of the feature map over its positions. Each position's feature
    in turn is replaced by its mean over the training images, and the drop of the anomaly score
    is the position's value: exact for every model that scores pooled features.
    """

    def fit(self, model: AnomalyDetector, train_features: ArrayLike, train_maps: Maps) -> Self:
        """Keep the model and average the training maps."""
        self.model_ = model
        total = np.zeros(())
        for feature_map in _checked(train_maps, np.shape(train_features)):
            total = total + feature_map
        self.mean_map_ = total / len(np.asarray(train_features))
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Score each position by the drop when its feature is made normal."""
        _check_map(feature_map, self.mean_map_.shape, name="feature_map")
        features = _positions(feature_map)
        change = (_positions(self.mean_map_) - features) / len(features)
        pooled = features.mean(axis=0)
        before, *after = self.model_.anomaly_score(np.vstack([pooled, pooled + change]))
        return (before - np.array(after)).reshape(feature_map.shape[1:])


class PatchDensity(PositionDensities, Localizer):
    """How unlikely each position's own feature is at that position.

    The features of all positions are projected to their `n_components` common principal components;
    at each position a Gaussian kernel density is fitted to the training images' features there.
    `shrinkage` is as in `PositionDensities`.
    """

    def __init__(self, n_components: int = 16, *, shrinkage: float = 0.1):
        self.n_components = n_components
        self.shrinkage = shrinkage

    def fit(self, model: AnomalyDetector, train_features: ArrayLike, train_maps: Maps) -> Self:
        """Fit a density at each position; the model is not used."""
        k = check_integer("n_components", self.n_components, minimum=1)
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in (0, 1], got {self.shrinkage!r}")
        if isinstance(train_maps, Iterator):
            raise ValueError("train_maps are read twice, got an iterator that can be read once")
        features = np.asarray(train_features, dtype=np.float64)
        n, d = features.shape
        if n < 2:
            raise ValueError(f"patch_density needs at least 2 samples, got {n}")
        if d < k:
            raise ValueError(f"n_components={k} needs at least {k} features, got {d}")
        self.mean_ = features.mean(axis=0)
        scatter = np.zeros((d, d), order="F")
        for feature_map in _checked(train_maps, features.shape):
            self.grid_ = np.array(feature_map.shape[1:])
            centred = _positions(feature_map) - self.mean_
            # In place and one triangle only: half the work, and no large temporary.
            scatter = dsyrk(1.0, centred.T, beta=1.0, c=scatter, overwrite_c=True)
        self.components_ = leading_components_of_scatter(scatter, k)
        points = np.empty((self.grid_.prod(), n, k))
        for number, feature_map in enumerate(train_maps):
            points[:, number] = self._projected(_positions(feature_map))
        self._fit_densities(points)
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Score each position by the negative log density of its own feature."""
        _check_map(feature_map, (len(self.mean_), *self.grid_.tolist()), name="feature_map")
        return self._anomaly_scores(_positions(feature_map)).reshape(feature_map.shape[1:])


class Uniform(Localizer):
    """The image's anomaly score at every position: the control that shows what a map is worth."""

    def fit(self, model: AnomalyDetector, train_features: ArrayLike, train_maps: Maps) -> Self:
        """Keep the model; the maps are not read."""
        self.model_ = model
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Repeat the anomaly score of the pooled feature."""
        score = self.model_.anomaly_score(_positions(feature_map).mean(axis=0, keepdims=True))
        return np.full(feature_map.shape[1:], score[0])


def _positions(feature_map: FeatureMap) -> Array:
    """Turn a feature map (d, h, w) into one feature per position (h * w, d), in float64."""
    return feature_map.reshape(len(feature_map), -1).T.astype(np.float64)


def _checked(train_maps: Maps, features_shape: tuple[int, ...]) -> Iterator[FeatureMap]:
    """Yield the training maps, as many as the features (n_samples, n_features), of one shape."""
    n, d = features_shape
    shape, count = (d, 0, 0), 0
    for count, feature_map in enumerate(train_maps, start=1):
        if count == 1 and feature_map.ndim == 3:
            shape = (d, *feature_map.shape[1:])
        _check_map(feature_map, shape, name=f"train_maps[{count - 1}]")
        yield feature_map
    if count != n:
        raise ValueError(f"train_maps must be as many as train_features, got {count} and {n}")


def _check_map(feature_map: FeatureMap, shape: tuple[int, ...], *, name: str) -> None:
    if feature_map.shape != shape:
        raise ValueError(
            f"{name} must be of shape (n_features, h, w) = {shape} like the training images',"
            f" got {feature_map.shape}"
        )
    finite = np.isfinite(feature_map)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, got {feature_map[place]} at {place}")
