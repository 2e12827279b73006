"""A fitted job applied to any image: kept in a folder, served by MLflow, or on the command line.

`python -m harness.predict model=RUN images=FOLDER` scores a folder of images. `Predictor` is
imported on first use, so that the command reports mistakes before it imports what computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.system.terminal import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.predict.predictor import Predictor

__all__ = ["QUANTILE", "Prediction", "Predictor"]

QUANTILE = 0.95
"""The share of the training images that the threshold calls normal, unless another is given."""


@dataclass(frozen=True)
class Prediction:
    """The result for one image.

    Attributes
    ----------
    score : float, optional
        The anomaly score, unbounded: the higher, the more anomalous. None if it has none.
    anomaly_map : ndarray of shape (h, w), optional
        One value for each position of the feature map; None without a score or if not asked for.
    error : str, optional
        Why the image has no score, or no heatmap, in one line.
    """

    score: float | None = None
    anomaly_map: NDArray[Any] | None = None
    error: str | None = None

    def verdict(self, threshold: float) -> str | None:
        """Return `anomalous` for a score above the threshold, else `normal`; None without one."""
        if self.score is None:
            return None
        return "anomalous" if self.score > threshold else "normal"


def check_quantile(quantile: float) -> None:
    """Refuse what is no share of the training images."""
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}")


def reason_of(error: ValueError | OSError, path: Path) -> str:
    """Return an error about an image in one line and without the image's path."""
    message = str(error).removeprefix(f"{path}: ").removeprefix(f"{shown(str(path))}: ")
    return shown(" ".join(message.split()))


def __getattr__(name: str) -> object:
    """Import the predictor on first use (PEP 562)."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    from harness.predict.predictor import Predictor

    return Predictor
