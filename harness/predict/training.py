"""From a fitted job to a detector that needs neither the job nor its images."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dfkde import Backbone, TrainedDetector
from harness.fitting import Fitted
from harness.predict.predictor import score_one
from harness.provenance import commit, versions


def trained(fitted: Fitted) -> TrainedDetector:
    """Take out of a fitted job what predicts, and score its training images.

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
    with threadpool_limits(1, user_api="blas"):
        train_scores = np.array([score_one(fitted.model, row) for row in fitted.train])
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


def _inputs(fitted: Fitted) -> dict[str, Any]:
    job, recipe = fitted.job, fitted.reader.recipe
    return {
        "image_size": recipe.image_size,
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


def _map_values(fitted: Fitted) -> list[float] | None:
    """Return median and maximum over the training images' anomaly maps."""
    locate = fitted.localizer
    if locate is None:
        return None
    maps = [locate.anomaly_map(one) for one in fitted.reader.maps(fitted.split.train)]
    return [float(np.median(maps)), float(np.max(maps))]
