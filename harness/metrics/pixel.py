"""Pixel-level metrics, exact, from one count of ranks over images streamed one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import ranks as _ranks
from harness.metrics.ranks import Map, Mask, Pair, Ranks, count_pixels
from harness.metrics.registry import F1Max, MetricValues, UndefinedMetricError

FPR_LIMIT = 0.3
"""The false positive rate up to which AUPRO is integrated, as the authors of MVTec AD do."""


def aupro(
    gt_masks: Sequence[Mask], anomaly_maps: Sequence[Map], fpr_limit: float = FPR_LIMIT
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
        In [0, 1], up to rounding; `fpr_limit / 2` where all scores are tied.

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
    ranks, steps = _count(gt_masks, anomaly_maps)
    return _ranks.area_to_limit(ranks, steps, fpr_limit)


def pixel_auroc(gt_masks: Sequence[Mask], anomaly_maps: Sequence[Map]) -> float:
    """Area under the ROC curve over the pixels of all images together.

    Parameters and errors are those of `aupro`, without a limit.

    Returns
    -------
    float
        In [0, 1]; 0.5 where all scores are tied.

    Examples
    --------
    >>> import numpy as np
    >>> gt_mask = np.array([[True, False, False, True]])
    >>> pixel_auroc([gt_mask], [np.array([[3.0, 1.0, 2.0, 1.5]])])
    0.75
    """
    return _ranks.auroc(_count(gt_masks, anomaly_maps)[0])


def pixel_average_precision(gt_masks: Sequence[Mask], anomaly_maps: Sequence[Map]) -> float:
    """Average precision over the pixels of all images together, in steps of recall.

    Parameters and errors are those of `aupro`, without a limit.

    Returns
    -------
    float
        In (0, 1]; the share of anomalous pixels where all scores are tied.

    Examples
    --------
    >>> import numpy as np
    >>> gt_mask = np.array([[True, False, False, True]])
    >>> round(pixel_average_precision([gt_mask], [np.array([[3.0, 1.0, 2.0, 1.5]])]), 4)
    0.8333
    """
    return _ranks.average_precision(_count(gt_masks, anomaly_maps)[0])


def pixel_f1_max(gt_masks: Sequence[Mask], anomaly_maps: Sequence[Map]) -> F1Max:
    """Best F1 over all thresholds on the pixels, and that threshold: an *oracle*.

    Parameters and errors are those of `aupro`, without a limit.

    Returns
    -------
    F1Max
        `value` and `threshold`; the highest threshold where several are best.

    Examples
    --------
    >>> import numpy as np
    >>> gt_mask = np.array([[True, False, False, True]])
    >>> pixel_f1_max([gt_mask], [np.array([[3.0, 1.0, 2.0, 1.5]])])
    F1Max(value=0.8, threshold=1.5)
    """
    return _ranks.f1_max(_count(gt_masks, anomaly_maps)[0])


def pixel_metrics(
    pairs: Callable[[], Iterable[Pair]],
    *,
    fpr_limit: float = FPR_LIMIT,
    threads: int = 1,
) -> MetricValues:
    """All pixel-level metrics at once, from images that are streamed one at a time.

    Parameters
    ----------
    pairs : callable
        Yields `(name, gt_mask, anomaly_map)` by image: the mask boolean, all False for a normal
        image, and the map real, both of shape (H, W), which may differ between images. Called
        twice, so that only the anomalous pixels and a chunk of normal ones are held.
    fpr_limit : float
        Where the AUPRO curve is cut, in (0, 1].
    threads : int
        Number of threads that sort and search.

    Returns
    -------
    MetricValues
        By name of `METRICS`. Where a class is missing, all are undefined with the reason.

    Raises
    ------
    ValueError, TypeError
        As `aupro`, naming the image; if `threads` is not positive; or if the second call of
        `pairs` gives other images than the first.

    Examples
    --------
    >>> import numpy as np
    >>> gt_mask = np.array([[True, False, False, True]])
    >>> anomaly_map = np.array([[3.0, 1.0, 2.0, 1.5]])
    >>> pixel_metrics(lambda: [("000.png", gt_mask, anomaly_map)], fpr_limit=1.0).values["aupro"]
    0.75
    """
    _check_limit(fpr_limit)
    names = ("pixel_auroc", "aupro", "pixel_average_precision", "pixel_f1_max")
    try:
        ranks, steps = count_pixels(pairs, threads=threads)
    except UndefinedMetricError as error:
        return MetricValues({}, dict.fromkeys(names, str(error)))
    values = (
        _ranks.auroc(ranks),
        _ranks.area_to_limit(ranks, steps, fpr_limit),
        _ranks.average_precision(ranks),
        _ranks.f1_max(ranks).value,
    )
    return MetricValues(dict(zip(names, values, strict=True)), {})


def evaluation_size(
    native: tuple[int, int], pixel_resolution: int | None = None
) -> tuple[int, int]:
    """Height and width at which the pixel metrics of one image are taken.

    Parameters
    ----------
    native : tuple of int
        Height and width of the ground truth mask as published.
    pixel_resolution : int, optional
        Side of a square in pixels, at least 1, to compare with those who resize; by default the
        native size.

    Returns
    -------
    tuple of int
        Height and width.

    Examples
    --------
    >>> evaluation_size((600, 800)), evaluation_size((600, 800), 256)
    ((600, 800), (256, 256))
    """
    if pixel_resolution is None:
        return native
    if pixel_resolution < 1:
        raise ValueError(
            f"pixel_resolution must be at least 1 or None (native), got {pixel_resolution}"
        )
    return pixel_resolution, pixel_resolution


def resize_mask(gt_mask: Mask, size: tuple[int, int]) -> Mask:
    """Ground truth mask at another size, by the nearest pixel centre, as Pillow resizes.

    Parameters
    ----------
    gt_mask : bool ndarray of shape (H, W)
        The mask. It is returned itself where it has that size already.
    size : tuple of int
        Height and width.

    Returns
    -------
    bool ndarray of shape `size`

    Examples
    --------
    >>> import numpy as np
    >>> resize_mask(np.eye(4, dtype=bool), (2, 2))
    array([[ True, False],
           [False,  True]])
    """
    if gt_mask.shape == size:
        return gt_mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, gt_mask.shape, strict=True)
    )
    return gt_mask[rows[:, None], columns]


def _count(
    gt_masks: Sequence[Mask], anomaly_maps: Sequence[Map]
) -> tuple[Ranks, NDArray[np.float64]]:
    if len(gt_masks) != len(anomaly_maps):
        raise ValueError(
            "gt_masks and anomaly_maps must be equally many, "
            f"got {len(gt_masks)} and {len(anomaly_maps)}"
        )
    names = (f"image {index}" for index in range(len(gt_masks)))
    pairs = list(zip(names, gt_masks, anomaly_maps, strict=True))
    return count_pixels(lambda: pairs)


def _check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
