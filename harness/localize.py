"""From a fitted model to the pixel-level results of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dfkde import render
from harness.config import Job
from harness.crop import region
from harness.data import Sample, read_mask
from harness.fitting import Fitted
from harness.metrics import METRICS, MetricValues, evaluation_size, pixel_metrics, resize_mask
from harness.metrics.counting import Pair
from harness.threads import available, one_blas_thread, parallel_map

# Threads that render: enough to keep ahead of the metrics, few enough to hold a few maps only.
_RENDERERS = 2


def pixel_results(fitted: Fitted, grids: Sequence[NDArray]) -> MetricValues:
    """Compute the pixel-level metrics of a fitted model.

    Parameters
    ----------
    fitted : Fitted
        The model, its localizer and the test images with their ground truth masks.
    grids : sequence of ndarray of shape (h, w)
        Their anomaly maps; not needed where nothing can be measured.

    Returns
    -------
    MetricValues
        All undefined, with the reason, where there are no masks or no localizer.

    Raises
    ------
    DataError
        If a mask cannot be decoded, or is not the one that was listed any more.
    ValueError
        If a map is not finite; the error names its image.
    """
    job, test = fitted.job, fitted.split.test
    if not any(sample.mask_name for sample in test):
        return _undefined(f"{job.dataset.name}/{job.category} has no ground truth masks")
    if fitted.localizer is None:
        return _undefined("localizer=none makes no anomaly maps")

    # On the backbone's grid a map is small; each pass of the metrics renders it anew, so that
    # the maps are never held at full size all at once.
    def pairs() -> Iterator[Pair]:
        shown = zip(test, grids, strict=True)
        return parallel_map(lambda one: _pair(*one, job=job), shown, min(_RENDERERS, available()))

    with one_blas_thread():  # all of this has threads of its own
        return pixel_metrics(pairs, threads=available())


def anomaly_grids(fitted: Fitted) -> list[NDArray]:
    """Map the anomaly score over each test image, on the backbone's grid.

    Parameters
    ----------
    fitted : Fitted
        The model, its localizer and the test images.

    Returns
    -------
    list of ndarray of shape (h, w)
        In the order of the test images; empty with localizer=none.
    """
    with one_blas_thread():
        locate = fitted.localizer
        if locate is None:
            return []
        maps = fitted.reader.maps(fitted.split.test)
        return list(parallel_map(locate.anomaly_map, maps, available()))


def gt_mask_of(sample: Sample, job: Job) -> NDArray[np.bool_]:
    """Return the part of a mask that the backbone sees; all False for a normal image.

    Parameters
    ----------
    sample : Sample
        A test image.
    job : Job
        With its `image_size` and `center_crop`: what lies outside of the crop is in no map, so
        that no map can be right or wrong about it.

    Returns
    -------
    bool ndarray of shape (H, W)
        In the mask's own pixels.

    Raises
    ------
    DataError
        If the mask cannot be decoded, or is not the one that was listed any more.
    """
    if sample.mask_path is None:
        gt_mask = np.zeros(sample.size, dtype=bool)
    else:
        gt_mask = read_mask(sample.mask_path, sample.mask_digest)
    return gt_mask[region(gt_mask.shape, image_size=job.image_size, center_crop=job.center_crop)]


def _pair(sample: Sample, grid: NDArray, *, job: Job) -> Pair:
    """Return the mask and the anomaly map of an image at the size of the evaluation."""
    gt_mask = gt_mask_of(sample, job)
    gt_mask = resize_mask(gt_mask, evaluation_size(gt_mask.shape, job.pixel_resolution))
    return sample.name, gt_mask, render(grid, size=gt_mask.shape)


def _undefined(reason: str) -> MetricValues:
    names = [metric.name for metric in METRICS.values() if metric.level == "pixel"]
    return MetricValues({}, dict.fromkeys(names, reason))
