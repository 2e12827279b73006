"""The interval of every cell and of every average, from the scores of the test images."""

from __future__ import annotations

from collections.abc import Sequence

from harness.record import ImageScore
from harness.report import bootstrap
from harness.report.bootstrap import Resampled
from harness.report.protocol import RESAMPLES

Limits = tuple[float, float]


def resample_cell(
    key: str, scores: Sequence[ImageScore], *, n: int = RESAMPLES
) -> Resampled | None:
    """Resample the image AUROC of a job's test images.

    Parameters
    ----------
    key : str
        Names the random stream: dataset and category.
    scores : sequence of ImageScore
        The job's scores.
    n : int
        Number of resamples.

    Returns
    -------
    Resampled, optional
        None where there are fewer than two images of a kind.
    """
    anomalous = [score.anomalous for score in scores]
    if min(sum(anomalous), len(anomalous) - sum(anomalous)) < 2:
        return None
    images = bootstrap.images_of(anomalous, [score.score for score in scores])
    return bootstrap.resample(images, bootstrap.auroc, key=key, n=n)


def cell_limits(resampled: Resampled | None) -> Limits | None:
    """Compute the interval of a job's image AUROC.

    Where the scores separate perfectly, the lower limit comes from the number of images.
    """
    if resampled is None:
        return None
    if resampled.value == 1.0:
        normal, anomalous = (len(stratum) for stratum in resampled.left_out)
        return bootstrap.separation_limit(normal, anomalous), 1.0
    return bootstrap.interval(resampled)


def average_limits(cells: Sequence[Resampled | None]) -> Limits | None:
    """Compute the interval of the average, images resampled within each category."""
    known = [cell for cell in cells if cell is not None]
    if not known or len(known) < len(cells):
        return None
    return bootstrap.interval(bootstrap.mean_of(known))
