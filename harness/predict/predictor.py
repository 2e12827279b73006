"""Scores of single images by a fitted job, the same bits wherever they are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dfkde import AnomalyDetector, TrainedDetector
from harness.config import FeaturesConfig
from harness.features import FeatureReader
from harness.features.reader import Features
from harness.threads import one_blas_thread, parallel_map

log = logging.getLogger(__name__)

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


class Predictor:
    """A trained detector with what reads images for it.

    Parameters
    ----------
    detector : TrainedDetector
        Trained by `harness.predict.trained`.
    cache : path-like, optional
        Folder of the feature cache, which keeps the translated backbone for the next time.
    engine, device : str, optional
        In place of those of training, where they are not on this machine; the last digits of the
        scores are then others.

    Attributes
    ----------
    detector : TrainedDetector
        As given.
    reader : FeatureReader
        Computes the features.

    Raises
    ------
    ValueError
        If the backbone is not the one of training, or the machine lacks the engine or device.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        *,
        cache: str | Path | None = None,
        engine: str | None = None,
        device: str | None = None,
    ) -> None:
        inputs = detector.inputs
        settings = FeaturesConfig(
            engine=engine or inputs["engine"],
            precision=inputs["precision"],
            device=device or inputs["device"],
            resize=inputs["resize"],
        )
        self.detector = detector
        self.reader = FeatureReader(
            detector.backbone.extractor(),
            image_size=inputs["image_size"],
            cache=cache,
            settings=settings,
            center_crop=inputs.get("center_crop"),  # not in detectors saved before there was one
        )
        self._warn_of_changes()

    def threshold(self, quantile: float = QUANTILE) -> float:
        """Return the score above which an image is called anomalous.

        Parameters
        ----------
        quantile : float
            The share of the training images, in (0, 1], whose held-out scores do not lie above
            it; it is the score of one of them. No other image has a say.

        Raises
        ------
        ValueError
            If the quantile is not in (0, 1].
        """
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}")
        return float(np.quantile(self.detector.train_scores, quantile, method="inverted_cdf"))

    def predict(self, paths: Iterable[Path], *, maps: bool = False) -> Iterator[Prediction]:
        """Score image files, each by itself: a score depends on no other image.

        Parameters
        ----------
        paths : iterable of Path
            The image files.
        maps : bool
            Whether to make anomaly maps too.

        Yields
        ------
        Prediction
            One for each path, in their order; a fault of an image is its prediction's error.
        """
        self.reader.prepare()
        batches = _batches(paths, self.reader.recipe.batch)
        with one_blas_thread():
            for found in parallel_map(
                partial(self._batch, maps=maps), batches, self.reader.workers
            ):
                yield from found

    def _batch(self, paths: Sequence[Path], *, maps: bool) -> list[Prediction]:
        predictions = []
        for path, features in zip(paths, self.reader.compute(paths), strict=True):
            try:
                predictions.append(self._predict(features, maps=maps))
            except (ValueError, OSError) as error:
                predictions.append(Prediction(error=reason_of(error, path)))
        return predictions

    def _predict(self, features: Features | ValueError | OSError, *, maps: bool) -> Prediction:
        if not isinstance(features, Features):
            raise features
        score = score_one(self.detector.model, features.pooled)
        locate = self.detector.localizer
        if not maps or locate is None:
            return Prediction(score)
        return Prediction(score, locate.anomaly_map(features.feature_map))

    def _warn_of_changes(self) -> None:
        """Say in the log what may change the last digits of a score since training."""
        trained, now = self.detector.inputs, self.reader.recipe
        for name, value in {
            "engine": now.engine,
            "device": now.device,
            "versions": list(now.versions),
        }.items():
            if trained[name] != value:
                log.warning("trained with %s %s, runs with %s", name, trained[name], value)


def reason_of(error: ValueError | OSError, path: Path) -> str:
    """Return what an error says of an image, in one line and without the image's path."""
    return " ".join(str(error).split()).removeprefix(f"{path}: ")


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    left = iter(paths)
    while batch := list(islice(left, size)):
        yield batch


def score_one(model: AnomalyDetector, pooled: NDArray[np.float32]) -> float:
    """Return the anomaly score of one image's pooled feature, shape (D,).

    Alone, for the last bits of a matrix product may depend on how many rows it has.
    """
    return float(model.anomaly_score(pooled[None])[0])
