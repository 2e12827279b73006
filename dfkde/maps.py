"""What every model on the maps of a network's layers has in common, and the patches they give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from dfkde.base import Array, NonFiniteError
from dfkde.localizers import axis_operator

Layers = Sequence[np.ndarray[Any, Any]]
"""Of one image: a map (channels, h, w) of each layer."""


class ImageMaps(Sized, Iterable[Layers], Protocol):
    """The maps of images, one image at a time, as often as they are asked for."""


class Scored(NamedTuple):
    """The anomaly score of an image and its anomaly map (h, w); the higher the more anomalous."""

    score: float
    anomaly_map: Array


class MapDetector(BaseEstimator, ABC):
    """A scikit-learn estimator that scores images by the maps of some layers of a network.

    A model is one subclass with `_fit` and `_score`; both get finite maps of equal shapes that they
    must not change. `fit` learns from normal images alone, which it reads one by one.

    Attributes
    ----------
    shapes_ : array of shape (n_layers, 3)
        Channels, height and width of the training images' maps.
    """

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes; wrong parameters are a ValueError."""
        return 1

    def fit(self, maps: ImageMaps) -> Self:
        """Learn what normal maps look like.

        Parameters
        ----------
        maps : sized iterable of sequences of arrays of shape (channels, h, w)
            For each normal image, the map of each layer; the same shapes in all images. Read once
            or several times, so that a generator will not do. Never modified.

        Returns
        -------
        MapDetector
            The fitted model itself.

        Raises
        ------
        ValueError
            If the maps or a parameter break a rule of the model; the message names it.
        NonFiniteError
            If a map holds NaN or infinity; its row is the number of the image.
        """
        if isinstance(maps, Iterator):
            raise ValueError("maps are read several times, got an iterator that can be read once")
        if len(maps) < self.min_samples:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.min_samples} images, got {len(maps)}"
            )
        first = next(iter(maps))
        if not len(first) or any(one.ndim != 3 for one in first):
            raise ValueError(
                "maps must hold an array (channels, h, w) for each of at least one layer, got"
                f" {[one.shape for one in first]}"
            )
        self.shapes_ = np.array([one.shape for one in first])
        self._fit(_Checked(self, maps))
        return self

    def score(self, layers: Layers, *, row: int = 0) -> Scored:
        """Score one image.

        Parameters
        ----------
        layers : sequence of arrays of shape (channels, h, w)
            The map of each layer, of the shapes of training. Never modified.
        row : int
            The number of the image among others, for an error to name.

        Returns
        -------
        Scored
            The image's score, float64 and unbounded, and the score of each position of the finest
            layer; the higher the more anomalous.

        Raises
        ------
        ValueError
            If the shapes are others than in training.
        NonFiniteError
            If a map holds NaN or infinity.
        """
        check_is_fitted(self)
        self._check(layers, row)
        return self._score(layers)

    def anomaly_score(self, maps: ImageMaps) -> Array:
        """Return the score (n,) of each image, as `score` gives it."""
        return np.array([self.score(one, row=row).score for row, one in enumerate(maps)])

    @abstractmethod
    def _fit(self, maps: ImageMaps) -> None:
        """Learn from validated maps."""

    @abstractmethod
    def _score(self, layers: Layers) -> Scored:
        """Score the validated maps of one image."""

    @property
    def _grid(self) -> tuple[int, int]:
        """Height and width of the finest layer."""
        _, h, w = max(self.shapes_.tolist(), key=lambda shape: shape[1] * shape[2])
        return h, w

    @property
    def _n_channels(self) -> int:
        return int(self.shapes_[:, 0].sum())

    def _check(self, layers: Layers, row: int) -> None:
        shapes, expected = [one.shape for one in layers], list(map(tuple, self.shapes_.tolist()))
        if shapes != expected:
            raise ValueError(
                "maps must be of the shapes (channels, h, w) of the first training image,"
                f" {expected}, got {shapes} in image {row}"
            )
        for one in layers:
            if not np.isfinite([one.min(), one.max()]).all():
                place = int(np.flatnonzero(~np.isfinite(one))[0])
                raise NonFiniteError(row, place, float(one.reshape(-1)[place]))


class _Checked:
    """Maps that are checked as they are read."""

    def __init__(self, model: MapDetector, maps: ImageMaps) -> None:
        self.model, self.maps = model, maps

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[Layers]:
        for row, layers in enumerate(self.maps):
            self.model._check(layers, row)
            yield layers


def patches(layers: Layers, grid: tuple[int, int], *, neighbourhood: int) -> Array:
    """Return the features (h * w, channels of all layers) of all positions of the finest grid.

    Each layer is averaged over the positions around each, `neighbourhood` high and wide, as far as
    they lie within the map, then brought to the grid by bilinear interpolation.
    """
    h, w = grid
    found = [
        _axis(one.shape[1], h, neighbourhood) @ one @ _axis(one.shape[2], w, neighbourhood).T
        for one in layers
    ]
    return np.ascontiguousarray(np.concatenate(found).reshape(-1, h * w).T)


@lru_cache(maxsize=32)
def _axis(n: int, size: int, neighbourhood: int) -> Array:
    """Return the matrix (size, n) that averages and interpolates one axis."""
    apart = np.abs(np.arange(n)[:, None] - np.arange(n))
    near = (apart <= neighbourhood // 2).astype(np.float64)
    return axis_operator(n, size, 0.0) @ (near / near.sum(axis=1, keepdims=True))


def check_neighbourhood(value: object) -> None:
    """Refuse a neighbourhood without a middle."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise ValueError(f"neighbourhood must be an odd integer of at least 1, got {value!r}")
