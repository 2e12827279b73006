"""What every model on pooled features has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

Array = np.ndarray[Any, np.dtype[np.float64]]


class NonFiniteError(ValueError):
    """A row of features holds NaN or infinity.

    Attributes
    ----------
    row : int
        Index of the first such row.
    """

    def __init__(self, row: int, column: int, value: float):
        super().__init__(row, column, value)
        self.row = row

    def __str__(self) -> str:
        row, column, value = self.args
        name = "NaN" if np.isnan(value) else "inf"
        return f"features must be finite, got {name} at row {row}, column {column}"


class AnomalyDetector(BaseEstimator, ABC):
    """A scikit-learn estimator that scores features by how anomalous they are.

    A model is one subclass with `_fit` and `_score_samples`; both get a finite, C-contiguous
    float64 array that they must not change. `fit` learns from normal images alone.
    """

    _dtypes: ClassVar[tuple[type[np.floating], ...]] = (np.float64,)
    """Dtypes that the model takes; features of any other are converted to the first."""

    @property
    def min_samples(self) -> int:
        """Smallest number of images that `fit` takes."""
        return 1

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn what normal features look like.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Pooled features of normal images. Never modified.
        y : None
            Ignored, for scikit-learn's pipelines.

        Returns
        -------
        AnomalyDetector
            The fitted model itself.

        Raises
        ------
        ValueError
            If X or a parameter breaks a rule of the model; the message names it.
        NonFiniteError
            If a row holds NaN or infinity.
        """
        self._fit(self._validated(X, reset=True))
        return self

    def score_samples(self, X: ArrayLike) -> Array:
        """Score features by how normal they are.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Pooled features. Never modified.

        Returns
        -------
        array of shape (n_samples,)
            float64, unbounded, the higher the more normal. A natural log density in the models
            that are densities; -inf where a squared distance overflows float64, about 1e154
            standard deviations away.

        Raises
        ------
        ValueError
            If X has another number of features than in training.
        NonFiniteError
            If a row holds NaN or infinity.
        """
        check_is_fitted(self)
        return self._score_samples(self._validated(X, reset=False))

    def anomaly_score(self, X: ArrayLike) -> Array:
        """Score features by how anomalous they are: the negative of `score_samples`.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            As in `score_samples`.

        Returns
        -------
        array of shape (n_samples,)
            float64, unbounded, the higher the more anomalous.
        """
        return -self.score_samples(X)

    @abstractmethod
    def _fit(self, X: Array) -> None:
        """Learn from validated training features (n_samples, n_features)."""

    @abstractmethod
    def _score_samples(self, X: Array) -> Array:
        """Score validated features (n_samples, n_features), higher for more normal."""

    def _validated(self, X: ArrayLike, *, reset: bool) -> Array:
        if np.ndim(X) != 2:  # scikit-learn would print all of X
            raise ValueError(f"X must be of shape (n_samples, n_features), got {np.shape(X)}")
        # scikit-learn's own check for finite values does not say in which row one is not.
        checked = validate_data(
            self, X, reset=reset, dtype=self._dtypes, order="C", ensure_all_finite=False
        )
        if not np.isfinite([checked.min(), checked.max()]).all():
            row, column = np.argwhere(~np.isfinite(checked))[0]
            raise NonFiniteError(int(row), int(column), float(checked[row, column]))
        return checked


def check_integer(name: str, value: object, *, minimum: int) -> int:
    """Return a parameter that must be an integer of at least `minimum`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)
