"""Scores of training images by models that have not seen them, and the threshold they set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from harness.config import Job
from harness.fitting import Fitted
from harness.models import build_model
from harness.threads import one_blas_thread

FOLDS = 10
"""Of the training images, each held out once from a model that scores it."""


def quantile_score(train_scores: NDArray[np.float64], quantile: float) -> float:
    """Return the training score that so large a share of the training scores do not exceed.

    Parameters
    ----------
    train_scores : ndarray of shape (n,)
        Held-out anomaly scores.
    quantile : float
        The share, in (0, 1].

    Returns
    -------
    float
        One of the scores; an image is called anomalous if its own lies above.

    Examples
    --------
    >>> quantile_score(np.array([4.0, 1.0, 2.0, 3.0]), 0.75)
    3.0
    """
    return float(np.quantile(train_scores, quantile, method="inverted_cdf"))


def threshold_of(fitted: Fitted) -> float | None:
    """Return the lowest score that a job calls anomalous, by its training images alone.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    float, optional
        None where the job names no `threshold_quantile`.

    Raises
    ------
    ValueError
        If there are too few training images to hold some out.
    """
    quantile = fitted.job.threshold_quantile
    if quantile is None:
        return None
    check_holding_out(fitted.job, len(fitted.train), setting="threshold_quantile must be null")
    with one_blas_thread():
        above = quantile_score(held_out_scores(fitted), quantile)
    return float(np.nextafter(above, np.inf))


def held_out_scores(fitted: Fitted) -> NDArray[np.float64]:
    """Score each training image by a model that was not fitted on it.

    A model gives the images it was fitted on far lower scores than any other normal image: to
    their nearest training image, for instance, they have no distance at all.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    ndarray of shape (n,)
        Anomaly scores, in the order of the training images.
    """
    scores = np.empty(len(fitted.train))
    for rest, held_out in folds(fitted):
        scores[held_out] = rest.model.anomaly_score(fitted.train[held_out])
    return scores


def check_holding_out(job: Job, n_train: int, *, setting: str) -> None:
    """Refuse a job whose model cannot be fitted without the images that are held out in turn.

    Parameters
    ----------
    job : Job
        The job.
    n_train : int
        How many training images it has.
    setting : str
        What asks for it, as `name must be value`.

    Raises
    ------
    ValueError
        In one line: how many images the model needs, and how many are left to it.
    """
    least = getattr(build_model(job.model), "min_samples", 1)
    left = n_train - math.ceil(n_train / FOLDS)
    if left < least:
        raise ValueError(
            f"{setting} where a tenth of the training images cannot be held out:"
            f" {job.model.name} needs {least} images, got {left} of {n_train} without that tenth"
        )


def folds(fitted: Fitted) -> Iterator[tuple[Fitted, NDArray[np.intp]]]:
    """Yield, for each fold, the job fitted on the other folds, and the fold's images.

    Parameters
    ----------
    fitted : Fitted
        A fitted job; its seed draws the folds.

    Yields
    ------
    rest : Fitted
        The job fitted without the fold.
    held_out : ndarray of shape (n_fold,)
        The fold's images, as positions among the training images.
    """
    job, train = fitted.job, fitted.train
    parts = KFold(min(FOLDS, len(train)), shuffle=True, random_state=job.seed)
    for rest, held_out in parts.split(train):
        split = replace(fitted.split, train=tuple(fitted.split.train[k] for k in rest))
        model = build_model(job.model).fit(train[rest])
        yield replace(fitted, split=split, model=model, train=train[rest]), held_out
