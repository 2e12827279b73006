"""The whole experiment: from a job to its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from harness.config import Job
from harness.data import Split, load_split, read_mask
from harness.features import FeatureReader, feature_reader
from harness.identity import identity, settings
from harness.metrics import Results, image_metrics, pixel_metrics
from harness.models import build_model
from harness.record import ImageScore, Record
from harness.stages import Stages


def evaluate(job: Job) -> Record:
    """Extract features, fit the model on the training images, score and measure the test images.

    Parameters
    ----------
    job : Job
        What to run.

    Returns
    -------
    Record
        Raw scores, metrics, and what is needed to trace them.
    """
    stages = Stages()
    with stages("data"):
        split = load_split(job.dataset, job.category, seed=job.seed)
    with stages("features"):
        reader = feature_reader(job.backbone, job.features, image_size=job.image_size)
        train, test = reader.pooled(split.train), reader.pooled(split.test)
    with stages("model"):
        model = build_model(job.model, seed=job.seed).fit(train)
        scores = model.anomaly_score(test)
        labels = np.array([sample.anomalous for sample in split.test])
    with stages("metrics"):
        ...
