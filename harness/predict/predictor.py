"""Scores of single images by a fitted job, equal to the bit wherever they are computed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv

from dfkde import Backbone, MapDetector, TrainedDetector
from harness.config import BackboneConfig, FeaturesConfig
from harness.data.images import USUAL, Decoding
from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import MAPS, POOLED, maps_of
from harness.features.reader import FeatureReader, Features
from harness.features.spec import NETWORK, library
from harness.fitting import Fitted, held_out, quantile_score
from harness.predict import QUANTILE, Prediction, check_quantile, reason_of
from harness.provenance import commit, versions
from harness.system.threads import one_blas_thread, parallel_map

log = logging.getLogger(__name__)

_READING = ("image_size", "center_crop", "resize", "engine", "precision", "device")
REQUIRED = (*_READING, "versions", "map_values")
"""The `inputs` of a detector that can predict, as `trained` writes them."""


class Predictor:
    """A trained detector with what reads images for it.

    Parameters
    ----------
    detector : TrainedDetector
        As `trained` returns it.
    cache : path-like, optional
        Folder of the feature cache, which keeps the translated backbone for the next time.
    engine, device : str, optional
        In place of those of training, where they are not on this machine; the last digits of the
        scores then differ.

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
        inputs = detector.inputs
        missing = [name for name in REQUIRED if name not in inputs]
        if missing:
            raise ValueError(
                f"the detector's inputs must hold {', '.join(REQUIRED)}, got none of {missing}"
            )
        detector.backbone.check()
        self.detector = detector
        self._extractor = _extractor(detector.backbone, cache)
        self.reader = FeatureReader(
            self._extractor,
            image_size=inputs["image_size"],
            cache=cache,
            settings=FeaturesConfig(
                engine=engine or inputs["engine"],
                precision=inputs["precision"],
                device=device or inputs["device"],
                resize=inputs["resize"],
            ),
            center_crop=inputs["center_crop"],
            decoding=Decoding(*inputs.get("decoding", USUAL)),
            map_layers=detector.backbone.maps_of,
        )
        self._check_network()
        self._warn_of_changes()

    def threshold(self, quantile: float = QUANTILE) -> float:
        """Return the score above which an image is called anomalous.

        Parameters
        ----------
        quantile : float
            The share of the training images, in (0, 1], whose held-out scores do not exceed the
            threshold; it is the score of one of them. No other image enters.

        Raises
        ------
        ValueError
            If the quantile is not in (0, 1].
        """
        check_quantile(quantile)
        return quantile_score(self.detector.train_scores, quantile)

    def percentile(self, score: float) -> float:
        """Return the percentage of the held-out training scores that lie below a score.

        It is at least 100 times `quantile` where the score lies above `threshold(quantile)`, and
        nowhere else.
        """
        below = np.count_nonzero(self.detector.train_scores < score)
        return 100 * int(below) / len(self.detector.train_scores)

    def false_alarms(self, quantile: float = QUANTILE) -> tuple[float, float]:
        """Return between which shares of normal images a threshold is exceeded: a 90 % interval.

        Of images that are drawn as the training images were, the share above the k-th smallest of
        n scores has the distribution Beta(n - k + 1, k): David and Nagaraja, Order Statistics
        (2003), section 2.1.
        """
        scores = self.detector.train_scores
        k = int(np.sum(scores <= self.threshold(quantile)))
        low, high = betaincinv(len(scores) - k + 1, k, [0.05, 0.95]).tolist()
        return low, high

    def map_threshold(self, quantile: float = QUANTILE) -> float:
        """Return the value that no position exceeds in the maps of that share of normal images.

        The images are the held-out training images. A ValueError without a localizer.
        """
        check_quantile(quantile)
        values = self.detector.inputs["map_values"]  # the median, then the maximum of each image
        if values is None:
            raise ValueError("the model has no localizer, and so no anomaly maps")
        return quantile_score(np.array(values[1:]), quantile)

    @property
    def map_scale(self) -> tuple[float, float]:
        """The values of an anomaly map at which the colours of a heatmap begin, and are full.

        They begin where `map_threshold` is at its default, and are full at three times its
        distance from the median of normal maps.
        """
        low = self.map_threshold()
        return low, low + 2 * (low - self.detector.inputs["map_values"][0])

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
        left, size = iter(paths), self.reader.spec.batch
        batches = iter(lambda: list(islice(left, size)), [])  # until none is left
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
        if isinstance(features, Exception):
            raise features
        model, locate = self.detector.model, self.detector.localizer
        anomaly_map = None
        if isinstance(model, MapDetector):
            score, anomaly_map = model.score(
                [features[maps_of(layer)] for layer in self.detector.backbone.maps_of]
            )
        else:
            # One row at a time: the last bits of a matrix product may depend on how many it has.
            score = float(model.anomaly_score(features[POOLED][None])[0])
        if not math.isfinite(score):  # no JSON, and no percentile
            raise ValueError(f"its score must be finite, got {score}")
        if maps and locate is not None:
            anomaly_map = locate.anomaly_map(features[MAPS])
        return Prediction(score, anomaly_map if maps else None)

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
        layers = sorted(backbone.maps_of)
        extractor = self._extractor.with_maps(layers) if layers else self._extractor
        found = extractor.digests(tuple(inputs["shape"])).network
        if found != inputs["network_digest"]:
            raise ValueError(
                f"the backbone {backbone.factory} must compute what it did in training, network"
                f" SHA-256 {inputs['network_digest']}, got {found}"
            )

    def _warn_of_changes(self) -> None:
        """Log what may change the last digits of a score since training."""
        now = self.reader.spec
        found = {"engine": now.engine, "device": now.device, "versions": list(now.versions)}
        for name, value in found.items():
            before = self.detector.inputs[name]
            if before != value:
                log.warning("trained with %s %s, runs with %s", name, before, value)


def trained(fitted: Fitted) -> TrainedDetector:
    """Take out of a fitted job what predicts, and hold out its training images.

    Its `inputs` say how images are read, every `auto` resolved, and where the detector comes from.
    """
    job, spec = fitted.job, fitted.spec
    with one_blas_thread():
        train_scores, map_values = held_out(fitted)
    backbone = Backbone(
        factory=job.backbone.factory,
        arguments=dict(job.backbone.arguments),
        weights=job.backbone.weights,
        layers=list(spec.layers),
        mean=list(spec.mean),
        std=list(spec.std),
        digest=spec.weights_digest,
        seed=job.seed if job.backbone.random else None,
        maps_of=list(job.map_layers),
    )
    inputs = {name: getattr(spec, name) for name in _READING} | {
        "versions": list(spec.versions),
        "network_digest": spec.network_digest,
        "shape": list(spec.shape),
        "job": str(job),
        "data_fingerprint": fitted.split.fingerprint,
        "commit": commit().sha,
        "libraries": versions(),
        "map_values": map_values,
    }
    if spec.decoding != USUAL:
        inputs["decoding"] = list(spec.decoding)
    return TrainedDetector(fitted.model, fitted.localizer, backbone, inputs, train_scores)


def _extractor(backbone: Backbone, cache: str | Path | None) -> LazyExtractor:
    settings: dict[str, Any] = {
        name: getattr(backbone, name)
        for name in ("factory", "arguments", "weights", "layers", "mean", "std")
    }
    kept = None if cache is None else str(cache)
    config = BackboneConfig(name=backbone.factory, **settings)
    return LazyExtractor(config, cache=kept, random_seed=backbone.seed)
