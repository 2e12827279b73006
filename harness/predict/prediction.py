"""What becomes of one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.show import shown

QUANTILE = 0.95
"""The share of the training images that the threshold calls normal, unless another is asked."""


@dataclass(frozen=True)
class Prediction:
    """What became of one image.

    Attributes
    ----------
    score : float, optional
        The anomaly score, unbounded: the higher, the more anomalous. None where there is an error.
    anomaly_map : ndarray of shape (h, w), optional
        On the grid of the features; None where there is an error or none was asked for.
    error : str, optional
        Why the image has no score, or no heatmap, in one line.
    """

    score: float | None = None
    anomaly_map: NDArray[np.float64] | None = None
    error: str | None = None

    def verdict(self, threshold: float) -> str | None:
        """Return `anomalous` for a score above the threshold, else `normal`; None without one."""
        if self.score is None:
            return None
        return "anomalous" if self.score > threshold else "normal"


def reason_of(error: ValueError | OSError, path: Path) -> str:
    """Return what an error says of an image, in one line and without the image's path."""
    told = str(error).removeprefix(f"{path}: ").removeprefix(f"{shown(str(path))}: ")
    return shown(" ".join(told.split()))


def check_quantile(quantile: float) -> None:
    """Refuse what is no share of the training images.

    Raises
    ------
    ValueError
        If the quantile is not in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}")
