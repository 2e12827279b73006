"""Scores of single images by a fitted job, the same bits wherever they are computed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfkde import AnomalyDetector, Backbone, TrainedDetector
from harness.config import BackboneConfig, FeaturesConfig
from harness.data.listing import IMAGE_SUFFIXES
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader, Features
from harness.features.spec import NETWORK, library
from harness.fitting import quantile_score
from harness.system.terminal import shown
from harness.system.threads import one_blas_thread, parallel_map

HEATMAPS = "heatmaps"
"""The folder of the heatmaps, in the one that the command writes to."""
# What file servers and archivers put beside images, in lower case.
_JUNK = frozenset({"@eadir", "__macosx"})


def image_files(folder: Path, *, without: Path) -> dict[Path, str | None]:
    """List the image files of a folder and of the folders in it.

    Links are followed. Whatever has an image's name is listed, be it a pipe or a dangling link:
    who reads it tells. Hidden files and folders are left out.

    Parameters
    ----------
    folder : Path
        Where to look.
    without : Path
        What `harness.predict` writes there, from an earlier time, is no image to score: its
        heatmaps.

    Returns
    -------
    dict of Path to str or None
        Sorted by path: None for an image file, and for a folder that cannot be listed, why not.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got '{folder}'")
    written = os.path.realpath(without / HEATMAPS)
    found = dict(sorted(_listed(folder, written, within=())))
    if folder in found:
        raise ValueError(f"images must be a folder that can be listed, got '{folder}'")
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"images must be a folder with image files ({kinds}), got '{folder}'")
    return found


def _listed(
    folder: Path, written: str, *, within: tuple[str, ...]
) -> Iterator[tuple[Path, str | None]]:
    place = os.path.realpath(folder)
    if place == written:
        return
    if place in within:
        yield folder, "cannot be listed (it is a link to a folder that it lies in)"
        return
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name.lower() in _JUNK:
            continue
        if entry.is_dir(follow_symlinks=False) or os.path.isdir(path):
            yield from _listed(path, written, within=(*within, place))
        elif _counts(path, written):
            yield path, None


def _counts(path: Path, written: str) -> bool:
    # A link to a heatmap is none either.
    return path.suffix.lower() in IMAGE_SUFFIXES and Path(written) not in (
        Path(os.path.realpath(path)).parents
    )


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


log = logging.getLogger(__name__)

REQUIRED = (
    "image_size",
    "center_crop",
    "resize",
    "engine",
    "precision",
    "device",
    "versions",
    "map_values",
)
"""The `inputs` of a detector that can predict; `harness.predict.trained` writes them."""


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
        If the detector lacks one of the `inputs` in `REQUIRED`, the backbone is not the one of
        training, or the machine lacks the engine or device.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        *,
        cache: str | Path | None = None,
        engine: str | None = None,
        device: str | None = None,
    ) -> None:
        inputs = _complete(detector)
        settings = FeaturesConfig(
            engine=engine or inputs["engine"],
            precision=inputs["precision"],
            device=device or inputs["device"],
            resize=inputs["resize"],
        )
        self.detector = detector
        self._extractor = _extractor(detector.backbone, cache)
        self.reader = FeatureReader(
            self._extractor,
            image_size=inputs["image_size"],
            cache=cache,
            settings=settings,
            center_crop=inputs["center_crop"],
        )
        self._check_network()
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
        check_quantile(quantile)
        return quantile_score(self.detector.train_scores, quantile)

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
        batches = _batches(paths, self.reader.spec.batch)
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

    def _check_network(self) -> None:
        """Refuse another network than that of training.

        Other versions of the libraries that record it may record it otherwise: then the weights
        alone are known to be the same, and the log says so.
        """
        backbone, inputs = self.detector.backbone, self.detector.inputs
        backbone.check_digest(self.reader.spec.weights_digest)
        if "network_digest" not in inputs:  # saved before it was kept
            return
        if not {*map(library, NETWORK)} <= {*inputs["versions"]}:
            log.warning("not checked what the network computes: other libraries record it")
            return
        found = self._extractor.digests(tuple(inputs["shape"])).network
        if found != inputs["network_digest"]:
            raise ValueError(
                f"the backbone {backbone.factory} must compute what it did in training, network"
                f" SHA-256 {inputs['network_digest']}, got {found}"
            )

    def _warn_of_changes(self) -> None:
        """Say in the log what may change the last digits of a score since training."""
        trained, now = self.detector.inputs, self.reader.spec
        for name, value in {
            "engine": now.engine,
            "device": now.device,
            "versions": list(now.versions),
        }.items():
            if trained[name] != value:
                log.warning("trained with %s %s, runs with %s", name, trained[name], value)


def _extractor(backbone: Backbone, cache: str | Path | None) -> LazyExtractor:
    settings = BackboneConfig(
        name=backbone.factory,
        factory=backbone.factory,
        arguments=backbone.arguments,
        weights=backbone.weights,
        layers=backbone.layers,
        mean=backbone.mean,
        std=backbone.std,
    )
    kept = None if cache is None else str(cache)
    return LazyExtractor(settings, cache=kept, build=backbone.extractor)


def _complete(detector: TrainedDetector) -> dict[str, Any]:
    missing = [name for name in REQUIRED if name not in detector.inputs]
    if missing:
        raise ValueError(
            f"the detector's inputs must hold {', '.join(REQUIRED)}, got none of {missing}"
        )
    return detector.inputs


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    left = iter(paths)
    while batch := list(islice(left, size)):
        yield batch


def score_one(model: AnomalyDetector, pooled: NDArray[np.float32]) -> float:
    """Return the anomaly score of one image's pooled feature, shape (D,).

    Alone, for the last bits of a matrix product may depend on how many rows it has.
    """
    return float(model.anomaly_score(pooled[None])[0])
