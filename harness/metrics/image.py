"""Image-level metrics: one score per image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics import ranks as _ranks
from harness.metrics.ranks import Ranks
from harness.metrics.registry import F1Max, MetricValues, UndefinedMetricError


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of the image scores.

    Parameters
    ----------
    labels : array-like of shape (n_images,)
        Ground truth: True or 1 for an anomalous image.
    scores : array-like of shape (n_images,)
        Anomaly scores, any finite real numbers: the higher, the more anomalous. Integers are
        ranked as float64.

    Returns
    -------
    float
        In [0, 1]; 0.5 where all scores are tied.

    Raises
    ------
    ValueError, TypeError
        If the shapes differ, a label is neither 0 nor 1, or a score is not finite or not real.
    UndefinedMetricError
        If there is no normal or no anomalous image.

    Examples
    --------
    >>> image_auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _ranks.auroc(_image_ranks(labels, scores))


def image_average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of the image scores, the area under steps of precision over recall.

    Parameters and errors are those of `image_auroc`.

    Returns
    -------
    float
        In (0, 1].

    Examples
    --------
    >>> round(image_average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return _ranks.average_precision(_image_ranks(labels, scores))


def image_f1_max(labels: ArrayLike, scores: ArrayLike) -> F1Max:
    """Best F1 over all thresholds on the image scores, and that threshold: an *oracle*.

    A detector that calls every image anomalous already reaches `2 p / (1 + p)` where a share `p`
    of the images is anomalous. Parameters and errors are those of `image_auroc`.

    Returns
    -------
    F1Max
        `value` and `threshold`; the highest threshold where several are best.

    Examples
    --------
    >>> image_f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    F1Max(value=0.8, threshold=0.35)
    """
    return _ranks.f1_max(_image_ranks(labels, scores))


def image_f1_at(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """F1 of calling images anomalous where `score >= threshold`, the same rule as `image_f1_max`.

    Parameters
    ----------
    labels, scores : array-like of shape (n_images,)
        As in `image_auroc`.
    threshold : float
        Chosen without the test labels, such as a quantile of the training scores; not NaN.

    Returns
    -------
    float
        In [0, 1]; 0 where no anomalous image is found.

    Examples
    --------
    >>> image_f1_at([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.5)
    0.6666666666666666
    """
    if np.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")
    anomalous, values = _validated(labels, scores)
    predicted = values >= np.float64(threshold)  # not rounded to the dtype of the scores
    true_positives = int(np.count_nonzero(predicted & anomalous))
    return 2 * true_positives / int(np.count_nonzero(predicted) + np.count_nonzero(anomalous))


def image_metrics(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float | None = None
) -> MetricValues:
    """All image-level metrics of one run.

    Parameters
    ----------
    labels, scores : array-like of shape (n_images,)
        As in `image_auroc`.
    threshold : float, optional
        From training scores, for `image_f1_at`; left out without one.

    Returns
    -------
    MetricValues
        By name of `METRICS`. Where a class is missing, all are undefined with the reason.
    """
    names = ["image_auroc", "image_average_precision", "image_f1_max"]
    names += [] if threshold is None else ["image_f1_at"]
    try:
        ranks = _image_ranks(labels, scores)
    except UndefinedMetricError as error:
        return MetricValues({}, dict.fromkeys(names, str(error)))
    values = [_ranks.auroc(ranks), _ranks.average_precision(ranks), _ranks.f1_max(ranks).value]
    values += [] if threshold is None else [image_f1_at(labels, scores, threshold)]
    return MetricValues(dict(zip(names, values, strict=True)), {})


def _image_ranks(labels: ArrayLike, scores: ArrayLike) -> Ranks:
    anomalous, values = _validated(labels, scores)
    normal = np.sort(values[~anomalous])
    distinct, counts = np.unique(values[anomalous], return_counts=True)
    below = np.asarray(np.searchsorted(normal, distinct, "left"))
    up_to = np.asarray(np.searchsorted(normal, distinct, "right"))
    return Ranks(distinct, counts, below, up_to, normal.size)


def _validated(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Return boolean labels and finite scores of one length, with both classes."""
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(
            "labels and scores must be one-dimensional and equally long, "
            f"got shapes {truth.shape} and {values.shape}"
        )
    if values.dtype.kind not in "fiub":
        raise TypeError(f"scores must be real numbers, got dtype {values.dtype}")
    anomalous = truth.astype(bool)
    if not np.array_equal(anomalous, truth):
        wrong = truth[anomalous != truth][0]
        raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), got {wrong}")
    values = values.astype(np.result_type(values.dtype, np.float32))
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"scores must be finite, got {values[index]} at index {index}")
    for kind, present in (("anomalous", anomalous.any()), ("normal", not anomalous.all())):
        if not present:
            raise UndefinedMetricError(f"there is no {kind} image")
    return anomalous, values
