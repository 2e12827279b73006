"""From a fitted model to the pixel-level results of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dfkde import AnomalyDetector, localizer, render
from harness.config import Job
from harness.data import Sample, Split, read_mask
from harness.features import FeatureReader
from harness.metrics import METRICS, MetricValues, evaluation_size, pixel_metrics, resize_mask


def pixel_results(
    job: Job, split: Split, *, model: AnomalyDetector, train: NDArray, reader: FeatureReader
) -> MetricValues:
    """Compute the pixel-level metrics of a fitted model.

    Parameters
    ----------
    job : Job
        Which localizer, at which resolution.
    split : Split
        The test images and their ground truth masks.
    model : AnomalyDetector
        Fitted on `train`.
    train : ndarray of shape (n, D)
        Pooled features of the training images.
    reader : FeatureReader
        Where feature maps come from.

    Returns
    -------
    MetricValues
        All undefined, with the reason, where there are no masks or no localizer.
    """
    if localizer(job.localizer) is None:
        return _undefined("localizer=none makes no anomaly maps")
    if not any(sample.mask_path for sample in split.test):
        return _undefined(f"{job.dataset.name}/{job.category} has no ground truth masks")
    # On the backbone's grid a map is small; each pass of the metrics renders it anew, so that
    # never more than one image is held at full size.
    grids = anomaly_grids(job, split, model=model, train=train, reader=reader)

    def pairs() -> Iterator[tuple[str, NDArray, NDArray]]:
        for sample, grid in zip(split.test, grids, strict=True):
            gt_mask = _gt_mask(sample, job.pixel_resolution)
            yield sample.name, gt_mask, render(grid, size=gt_mask.shape)

    return pixel_metrics(pairs, threads=os.cpu_count() or 1)


def anomaly_grids(
    job: Job, split: Split, *, model: AnomalyDetector, train: NDArray, reader: FeatureReader
) -> list[NDArray]:
    """Map the anomaly score over each test image, on the backbone's grid.

    Parameters
    ----------
    job, split, model, train, reader
        As for `pixel_results`.

    Returns
    -------
    list of ndarray of shape (h, w)
        In the order of the test images; empty with localizer=none.
    """
    locate = localizer(job.localizer)
    if locate is None:
        return []
    locate.fit(model, train, _Maps(reader, split.train))
    return [locate.anomaly_map(feature_map) for feature_map in reader.maps(split.test)]


class _Maps:
    """The feature maps of samples, one at a time and as often as they are asked for."""

    def __init__(self, reader: FeatureReader, samples: Sequence[Sample]) -> None:
        self.reader, self.samples = reader, samples

    def __iter__(self) -> Iterator[NDArray]:
        return self.reader.maps(self.samples)


def _gt_mask(sample: Sample, pixel_resolution: int | None) -> NDArray:
    """Return the mask at the size of the evaluation; all False for a normal image."""
    if sample.mask_path is None:
        return np.zeros(evaluation_size(sample.size, pixel_resolution), dtype=bool)
    gt_mask = read_mask(sample.mask_path)
    return resize_mask(gt_mask, evaluation_size(gt_mask.shape, pixel_resolution))


def _undefined(reason: str) -> MetricValues:
    names = [metric.name for metric in METRICS.values() if metric.level == "pixel"]
    return MetricValues({}, dict.fromkeys(names, reason))
