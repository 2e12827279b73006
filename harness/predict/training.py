"""From a fitted job to a detector that needs neither the job nor its images."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfkde import Backbone, TrainedDetector
from harness.fitting import Fitted
from harness.holdout import folds, held_out_scores
from harness.provenance import commit, versions
from harness.threads import one_blas_thread


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
        train_scores = held_out_scores(fitted)
        map_values = _map_values(fitted)
    backbone = Backbone(
        factory=settings.factory,
        arguments=dict(settings.arguments),
        weights=settings.weights,
        layers=list(recipe.layers),
        mean=list(recipe.mean),
        std=list(recipe.std),
        digest=recipe.weights_digest,
        seed=fitted.job.seed if settings.random else None,
    )
    inputs = _inputs(fitted) | {"map_values": map_values}
    return TrainedDetector(fitted.model, fitted.localizer, backbone, inputs, train_scores)


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
        "network_digest": recipe.network_digest,
        "shape": list(recipe.shape),
        "job": str(job),
        "data_fingerprint": fitted.split.fingerprint,
        "commit": commit().sha,
        "libraries": versions(),
    }


def _map_values(fitted: Fitted) -> list[float] | None:
    """Return median and maximum over the anomaly maps of a fold that was held out."""
    rest, held_out = next(folds(fitted))
    locate = rest.localizer
    if locate is None:
        return None
    samples = [fitted.split.train[k] for k in held_out]
    maps = [locate.anomaly_map(one) for one in fitted.reader.maps(samples)]
    return [float(np.median(maps)), float(np.max(maps))]
