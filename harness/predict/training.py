"""From a fitted job to a detector that needs neither the job nor its images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from dfkde import Backbone, TrainedDetector
from harness.config import Job
from harness.fitting import Fitted
from harness.models import build_model
from harness.provenance import commit, versions
from harness.threads import one_blas_thread

FOLDS = 10
"""Of the training images, each held out once from a model that scores it."""


def trained(fitted: Fitted) -> TrainedDetector:
    """Take out of a fitted job what predicts, and hold out its training images.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    TrainedDetector
        Its `inputs` say how images are read, every `auto` resolved, and where it comes from.
    """
    settings, recipe = fitted.job.backbone, fitted.reader.recipe
    with one_blas_thread():
        train_scores = _held_out_scores(fitted)
        map_values = _map_values(fitted)
    backbone = Backbone(
        factory=settings.factory,
        arguments=dict(settings.arguments),
        weights=settings.weights,
        layers=list(recipe.layers),
        mean=list(recipe.mean),
        std=list(recipe.std),
        digest=recipe.weights_digest,
    )
    inputs = _inputs(fitted) | {"map_values": map_values}
    return TrainedDetector(fitted.model, fitted.localizer, backbone, inputs, train_scores)


def check_holding_out(job: Job, n_train: int) -> None:
    """Refuse a job whose model cannot be fitted without the images that are held out in turn.

    Parameters
    ----------
    job : Job
        The job.
    n_train : int
        How many training images it has.

    Raises
    ------
    ValueError
        In one line: how many images the model needs, and how many are left to it.
    """
    least = getattr(build_model(job.model), "min_samples", 1)
    left = n_train - math.ceil(n_train / FOLDS)
    if left < least:
        raise ValueError(
            f"save_model must be false where a tenth of the training images cannot be held out:"
            f" {job.model.name} needs {least} images, got {left} of {n_train} without that tenth"
        )


def _inputs(fitted: Fitted) -> dict[str, Any]:
    job, recipe = fitted.job, fitted.reader.recipe
    return {
        "image_size": recipe.image_size,
        "center_crop": recipe.center_crop,
        "resize": recipe.resize,
        "engine": recipe.engine,
        "precision": recipe.precision,
        "device": recipe.device,
        "versions": list(recipe.versions),
        "job": str(job),
        "data_fingerprint": fitted.split.fingerprint,
        "commit": commit().sha,
        "libraries": versions(),
    }


def _held_out_scores(fitted: Fitted) -> NDArray[np.float64]:
    """Score each training image by a model that was not fitted on it, shape (n,).

    A model gives the images it was fitted on far lower scores than any other normal image: to
    their nearest training image, for instance, they have no distance at all.
    """
    scores = np.empty(len(fitted.train))
    for rest, held_out in _folds(fitted):
        scores[held_out] = rest.model.anomaly_score(fitted.train[held_out])
    return scores


def _map_values(fitted: Fitted) -> list[float] | None:
    """Return median and maximum over the anomaly maps of a fold that was held out."""
    rest, held_out = next(_folds(fitted))
    locate = rest.localizer
    if locate is None:
        return None
    samples = [fitted.split.train[k] for k in held_out]
    maps = [locate.anomaly_map(one) for one in fitted.reader.maps(samples)]
    return [float(np.median(maps)), float(np.max(maps))]


def _folds(fitted: Fitted) -> Iterator[tuple[Fitted, NDArray[np.intp]]]:
    """Yield, for each fold, the job fitted on the other folds, and the fold's images."""
    job, train = fitted.job, fitted.train
    folds = KFold(min(FOLDS, len(train)), shuffle=True, random_state=job.seed)
    for rest, held_out in folds.split(train):
        split = replace(fitted.split, train=tuple(fitted.split.train[k] for k in rest))
        model = build_model(job.model).fit(train[rest])
        yield replace(fitted, split=split, model=model, train=train[rest]), held_out
