"""Pixel-level metrics, exact, at bounded memory, all from one count of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics import ranks as _ranks
from harness.metrics.ranks import Ranks
from harness.metrics.regions import RegionPixels, region_pixels
from harness.metrics.result import F1Max, MetricValues, UndefinedMetricError

Pair = tuple[str, NDArray[np.bool_], NDArray[np.floating]]
"""An image's name, its ground truth mask (H, W) and its anomaly map (H, W)."""

CHUNK_PIXELS = 2**25
"""Normal pixels sorted at a time: larger chunks need fewer searches, smaller less memory."""


def aupro(
    gt_masks: Sequence[NDArray[np.bool_]],
    anomaly_maps: Sequence[NDArray[np.floating]],
    fpr_limit: float = 0.3,
) -> float:
    """Area under the per-region overlap curve up to a false positive rate.

    Each 8-connected region of the ground truth counts alike, however large. The overlap is
    plotted over the false positive rate among all pixels that no mask calls anomalous, cut at
    `fpr_limit` with linear interpolation, and its area is divided by the limit.

    Parameters
    ----------
    gt_masks : sequence of bool ndarray of shape (H, W)
        Ground truth masks, all False for a normal image; or one array of shape (n, H, W).
    anomaly_maps : sequence of ndarray of shape (H, W)
        Anomaly scores of the same pixels: the higher, the more anomalous.
    fpr_limit : float
        In (0, 1].

    Returns
    -------
    float
        In [0, 1]; `fpr_limit / 2` where all scores are tied.

    Raises
    ------
    ValueError
        If `fpr_limit` is out of range, shapes differ, or a map has a NaN or an infinity.
    TypeError
        If a mask is not boolean or a map is not real.
    UndefinedMetricError
        If there is no normal or no anomalous pixel.

    Notes
    -----
    Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> gt_mask = np.array([[True, False, False, True]])
    >>> aupro([gt_mask], [np.array([[3.0, 1.0, 2.0, 1.5]])], fpr_limit=1.0)
    0.75
    """
    _check_limit(fpr_limit)
    counted = _count(_in_memory(gt_masks, anomaly_maps))
    return _ranks.area_to_limit(counted.ranks, counted.steps, fpr_limit)


def pixel_auroc(
    gt_masks: Sequence[NDArray[np.bool_]], anomaly_maps: Sequence[NDArray[np.floating]]
) -> float:
    """Area under the ROC curve over all pixels. Parameters, errors: as `aupro`."""
    return _ranks.auroc(_count(_in_memory(gt_masks, anomaly_maps)).ranks)


def pixel_average_precision(
    gt_masks: Sequence[NDArray[np.bool_]], anomaly_maps: Sequence[NDArray[np.floating]]
) -> float:
    """Average precision over all pixels. Parameters, errors: as `aupro`."""
    return _ranks.average_precision(_count(_in_memory(gt_masks, anomaly_maps)).ranks)


def pixel_f1_max(
    gt_masks: Sequence[NDArray[np.bool_]], anomaly_maps: Sequence[NDArray[np.floating]]
) -> F1Max:
    """Best F1 over all thresholds on the pixels, an *oracle*. Parameters, errors: as `aupro`."""
    return _ranks.f1_max(_count(_in_memory(gt_masks, anomaly_maps)).ranks)


def pixel_metrics(
    pairs: Callable[[], Iterable[Pair]], *, fpr_limit: float = 0.3, threads: int = 1
) -> MetricValues:
    """All pixel-level metrics, from images that are streamed one at a time.

    Parameters
    ----------
    pairs : callable
        Called twice, once for each pass; gives `(name, gt_mask, anomaly_map)` by image, the mask
        boolean and the map real, both of shape (H, W), which may differ between images.
    fpr_limit : float
        Where the AUPRO curve is cut, in (0, 1].
    threads : int
        Number of threads that sort.

    Returns
    -------
    MetricValues
        By name of `METRICS`. Where a class is missing, all are undefined with the reason.

    Raises
    ------
    ValueError, TypeError
        As `aupro`, naming the image.
    """
    _check_limit(fpr_limit)
    names = ("pixel_auroc", "aupro", "pixel_average_precision", "pixel_f1_max")
    try:
        ranks, steps = _count(pairs, threads=threads)
    except UndefinedMetricError as error:
        return MetricValues({}, dict.fromkeys(names, str(error)))
    values = (
        _ranks.auroc(ranks),
        _ranks.area_to_limit(ranks, steps, fpr_limit),
        _ranks.average_precision(ranks),
        _ranks.f1_max(ranks).value,
    )
    return MetricValues(dict(zip(names, values, strict=True)), {})


class _Counted(NamedTuple):
    """Ranks of the anomalous pixels, and the rise of per-region overlap at each score."""

    ranks: Ranks
    steps: NDArray[np.float64]


def _count(pairs: Callable[[], Iterable[Pair]], *, threads: int = 1) -> _Counted:
    n_pixels = 0
    found: list[RegionPixels] = []
    for pair in pairs():
        _check_pair(*pair)
        n_pixels += pair[1].size
        found.append(region_pixels(pair[1], pair[2]))
    distinct, counts, steps = _distinct(found)
    n_normal = n_pixels - int(counts.sum())
    for kind, number in (("anomalous", n_pixels - n_normal), ("normal", n_normal)):
        if not number:
            raise UndefinedMetricError(f"no {kind} pixel in any ground truth mask")
    below, tied = np.zeros(distinct.size, np.int64), np.zeros(distinct.size, np.int64)
    for chunk in _chunks(anomaly_map[~gt_mask] for _, gt_mask, anomaly_map in pairs()):
        chunk.sort()
        for total, part in zip((below, tied), _ranks.below_and_tied(chunk, distinct), strict=True):
            total += part
    return _Counted(Ranks(distinct, counts, below, tied, n_normal), steps)


def _distinct(
    found: list[RegionPixels],
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.float64]]:
    """Distinct anomalous scores, pixels at each, and how far the mean overlap rises at each."""
    scores = np.concatenate([pixels.scores for pixels in found])
    n_regions = sum(pixels.sizes.size for pixels in found)
    weights = np.concatenate([1 / (n_regions * p.sizes[p.regions]) for p in found])
    distinct, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return distinct, np.asarray(counts), np.bincount(inverse, weights, minlength=distinct.size)


def _chunks(parts: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.floating]]:
    waiting: list[NDArray[np.floating]] = []
    for part in parts:
        waiting.append(part)
        if sum(array.size for array in waiting) >= CHUNK_PIXELS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _in_memory(
    gt_masks: Sequence[NDArray[np.bool_]], anomaly_maps: Sequence[NDArray[np.floating]]
) -> Callable[[], Iterable[Pair]]:
    if len(gt_masks) != len(anomaly_maps):
        raise ValueError(
            "gt_masks and anomaly_maps must be equally many, "
            f"got {len(gt_masks)} and {len(anomaly_maps)}"
        )
    names = (f"image {index}" for index in range(len(gt_masks)))
    pairs = list(zip(names, gt_masks, anomaly_maps, strict=True))
    return lambda: pairs


def _check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")


def _check_pair(name: str, gt_mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating]) -> None:
    if gt_mask.dtype != np.bool_:
        raise TypeError(f"gt_mask of {name} must be boolean, got dtype {gt_mask.dtype}")
    if gt_mask.ndim != 2 or gt_mask.shape != anomaly_map.shape:
        raise ValueError(
            f"gt_mask and anomaly_map of {name} must have one shape (H, W), "
            f"got {gt_mask.shape} and {anomaly_map.shape}"
        )
    if not np.isfinite(anomaly_map).all():
        wrong = anomaly_map[~np.isfinite(anomaly_map)][0]
        raise ValueError(f"anomaly_map of {name} must be finite, got {wrong}")
