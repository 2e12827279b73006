"""Anomaly maps: which positions of the feature map make the image anomalous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.blas import dsyrk
from scipy.special import logsumexp
from sklearn.base import BaseEstimator

from dfkde.base import AnomalyDetector, Array, check_integer
from dfkde.choices import check_localizer
from dfkde.feature_maps import FeatureMap, check_map, checked, positions
from dfkde.pca import leading_components_of_scatter


class Localizer(BaseEstimator, ABC):
    """Gives each position of a feature map an anomaly score, with a fitted model."""

    @abstractmethod
    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[FeatureMap],
    ) -> Self:
        """Learn from the training images.

        Parameters
        ----------
        model : AnomalyDetector
            Fitted on the pooled features.
        train_features : array of shape (n_samples, n_features)
            The pooled features that it was fitted on.
        train_maps : iterable of arrays of shape (n_features, h, w)
            The feature maps of the same images in the same order. Only one is held at a time;
            some localizers read them twice, so a generator does not do.

        Raises
        ------
        ValueError
            If the maps are not those of the features: another number, another width, several
            grids, NaN or infinity; or too few or too much alike.
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

    Attributes
    ----------
    model_ : AnomalyDetector
        The fitted model.
    mean_map_ : array of shape (n_features, h, w)
        Mean feature map of the training images.
    """

    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[FeatureMap],
    ) -> Self:
        """Keep the model and average the training maps."""
        self.model_ = model
        total = np.zeros(())
        for feature_map in checked(train_maps, np.shape(train_features)):
            total = total + feature_map
        self.mean_map_ = total / len(np.asarray(train_features))
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Score each position by the drop when its feature is made normal."""
        check_map(feature_map, self.mean_map_.shape, name="feature_map")
        features = positions(feature_map)
        change = (positions(self.mean_map_) - features) / len(features)
        pooled = features.mean(axis=0)
        before, *after = self.model_.anomaly_score(np.vstack([pooled, pooled + change]))
        return (before - np.array(after)).reshape(feature_map.shape[1:])


class PatchDensity(Localizer):
    """How unlikely each position's own feature is at that position.

    The features of all positions are projected to their common principal components; at each
    position a Gaussian kernel density is fitted to the training images' features there.

    The kernels' covariance is the position's own, mixed with the mean over all positions: at a
    position where the training images hardly differ, as in an empty corner, its own is singular.

    Parameters
    ----------
    n_components : int
        Principal components kept.
    shrinkage : float
        Share of the mean covariance in each position's, in (0, 1].

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean of the training features over images and positions.
    components_ : array of shape (n_components, n_features)
        Their principal directions.
    position_means_ : array of shape (h * w, n_components)
        Mean of the projected training features at each position.
    whitening_ : array of shape (h * w, n_components, n_components)
        Inverse Cholesky factor of the kernels' covariance at each position.
    points_ : array of shape (h * w, n_samples, n_components)
        The projected training features, centred and whitened.
    log_norm_ : array of shape (h * w,)
        Log of the kernels' common factor.
    grid_ : array of shape (2,)
        Height and width of the training maps, h and w.
    """

    def __init__(self, n_components: int = 16, *, shrinkage: float = 0.1):
        self.n_components = n_components
        self.shrinkage = shrinkage

    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[FeatureMap],
    ) -> Self:
        """Fit a density at each position; the model is not used."""
        check_integer("n_components", self.n_components, minimum=1)
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in (0, 1], got {self.shrinkage!r}")
        if isinstance(train_maps, Iterator):
            raise ValueError("train_maps are read twice, got an iterator that can be read once")
        features = np.asarray(train_features, dtype=np.float64)
        if len(features) < 2:
            raise ValueError(f"patch_density needs at least 2 samples, got {len(features)}")
        self.mean_ = features.mean(axis=0)
        self.components_ = self._principal_components(train_maps, features.shape)
        self._fit_densities(np.stack([self._project(one) for one in train_maps]))
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Score each position by the negative log density of its own feature."""
        check_map(feature_map, (len(self.mean_), *self.grid_.tolist()), name="feature_map")
        centred = self._project(feature_map) - self.position_means_
        whitened = np.einsum("pij,pj->pi", self.whitening_, centred)
        squared = ((self.points_ - whitened[:, None]) ** 2).sum(axis=2)
        log_density = logsumexp(-squared / 2, axis=1) + self.log_norm_
        return -np.asarray(log_density).reshape(feature_map.shape[1:])

    def _project(self, feature_map: FeatureMap) -> Array:
        return (positions(feature_map) - self.mean_) @ self.components_.T

    def _principal_components(
        self, train_maps: Iterable[FeatureMap], shape: tuple[int, ...]
    ) -> Array:
        d, k = len(self.mean_), self.n_components
        if d < k:
            raise ValueError(f"n_components={k} needs at least {k} features, got {d}")
        scatter = np.zeros((d, d), order="F")
        for feature_map in checked(train_maps, shape):
            self.grid_ = np.array(feature_map.shape[1:])
            centred = positions(feature_map) - self.mean_
            # In place and one triangle only: half the work, and no large temporary.
            scatter = dsyrk(1.0, centred.T, beta=1.0, c=scatter, overwrite_c=True)
        return leading_components_of_scatter(scatter, k)

    def _fit_densities(self, projected: Array) -> None:
        n, _, k = projected.shape
        self.position_means_ = projected.mean(axis=0)
        centred = (projected - self.position_means_).transpose(1, 0, 2)
        own = centred.transpose(0, 2, 1) @ centred / (n - 1)
        self._check_rank(own.mean(axis=0), projected)
        covariance = own + self.shrinkage * (own.mean(axis=0) - own)
        cholesky = np.linalg.cholesky(covariance) * n ** (-1 / (k + 4))
        self.whitening_ = np.linalg.inv(cholesky)
        self.points_ = np.ascontiguousarray(centred @ self.whitening_.transpose(0, 2, 1))
        log_det = 2 * np.log(np.diagonal(cholesky, axis1=1, axis2=2)).sum(axis=1)
        self.log_norm_ = -np.log(n) - (k * np.log(2 * np.pi) + log_det) / 2

    def _check_rank(self, covariance: Array, projected: Array) -> None:
        """Refuse a mean covariance (k, k) of the projected features (n, h * w, k) that is singular.

        All covariances hold a share of it, and so have its rank at least.
        """
        n, _, k = projected.shape
        eps = np.finfo(np.float64).eps
        values = np.linalg.eigvalsh(covariance)
        rounding = (n * eps * np.abs(projected).max()) ** 2
        rank = int((values > len(projected[0]) * n * eps * values[-1] + rounding).sum())
        if rank < k:
            raise ValueError(
                f"n_components={k} needs feature maps that vary between the images in as many"
                f" directions, got {rank} (n_samples={n}, n_features={len(self.mean_)})"
            )


class Uniform(Localizer):
    """The image's anomaly score at every position: the control that shows what a map is worth.

    Attributes
    ----------
    model_ : AnomalyDetector
        The fitted model.
    """

    def fit(
        self,
        model: AnomalyDetector,
        train_features: ArrayLike,
        train_maps: Iterable[FeatureMap],
    ) -> Self:
        """Keep the model; the maps are not read."""
        self.model_ = model
        return self

    def anomaly_map(self, feature_map: FeatureMap) -> Array:
        """Repeat the anomaly score of the pooled feature."""
        score = self.model_.anomaly_score(positions(feature_map).mean(axis=0, keepdims=True))
        return np.full(feature_map.shape[1:], score[0])


_CLASSES: dict[str, type[Localizer]] = {
    "occlusion": Occlusion,
    "patch_density": PatchDensity,
    "uniform": Uniform,
}


def localizer(name: str) -> Localizer | None:
    """Give the localizer of this name, not yet fitted; None for `none`.

    Parameters
    ----------
    name : str
        One of `dfkde.choices.LOCALIZERS`.

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
    return None if name == "none" else _CLASSES[name]()
