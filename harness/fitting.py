"""A fitted job: its model, its threshold and its anomaly maps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from dfkde import AnomalyDetector, Localizer, NonFiniteError, localizer, render
from harness.config import Job, ModelConfig
from harness.data import DataError, Sample, Split, load_split, read_mask
from harness.features.reader import FeatureReader, feature_reader
from harness.features.settings import region
from harness.metrics import METRICS, MetricValues, evaluation_size, pixel_metrics, resize_mask
from harness.metrics.counting import Pair
from harness.record import Stages
from harness.system.threads import available, one_blas_thread, parallel_map


def build_model(config: ModelConfig) -> Any:
    """Return an unfitted estimator.

    Parameters
    ----------
    config : ModelConfig
        The model's class and its parameters.

    Returns
    -------
    estimator
        With `fit(X)` and `anomaly_score(X)`; X holds pooled features, shape (n, d).

    Raises
    ------
    ValueError
        If the class cannot be found or does not take one of the parameters: one line with the
        key, the value and the choices.
    """
    factory = _resolve(config.factory)
    accepted = list(inspect.signature(factory).parameters)
    for name in config.params:
        if name not in accepted:
            raise ValueError(_unknown_parameter(name, accepted, factory=config.factory))
    return factory(**config.params)


def without_seed(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a model's parameters without a `random_state` that is the job's seed.

    Examples
    --------
    >>> without_seed({"k": 1, "random_state": 42}, 42), without_seed({"random_state": 7}, 42)
    ({'k': 1}, {'random_state': 7})
    """
    return {k: v for k, v in params.items() if k != "random_state" or v != seed}


def _resolve(factory: str) -> Any:
    try:
        return resolve_name(factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.factory must be an importable 'module:class', got {factory!r} ({error})"
        ) from error


def _unknown_parameter(name: str, accepted: list[str], *, factory: str) -> str:
    near = get_close_matches(name, accepted, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(accepted) or "none"
    return f"model.params.{name} is not a parameter of {factory}{hint} Choose from: {listed}"


@dataclass(frozen=True)
class Fitted:
    """A model fitted on the training images of a job.

    Attributes
    ----------
    job : Job
        What was fitted.
    split : Split
        The images of its category.
    reader : FeatureReader
        Where features come from.
    model : AnomalyDetector
        Fitted on `train`.
    train : ndarray of shape (n, D)
        Pooled features of the training images.
    """

    job: Job
    split: Split
    reader: FeatureReader
    model: AnomalyDetector
    train: NDArray[np.float32]

    @cached_property
    def localizer(self) -> Localizer | None:
        """The fitted localizer, None for `none`; fitted when first asked for, as not all ask."""
        unfitted = localizer(self.job.localizer)
        if unfitted is None:
            return None
        return unfitted.fit(self.model, self.train, _Maps(self.reader, self.split.train))


def fit(job: Job, stages: Stages | None = None, *, split: Split | None = None) -> Fitted:
    """Train on the normal images of a category.

    Parameters
    ----------
    job : Job
        What to fit.
    stages : Stages, optional
        The stopwatch to time its stages with.
    split : Split, optional
        The images of the job, where they are known already.

    Returns
    -------
    Fitted
        The model, with what scores further images.

    Raises
    ------
    DataError
        If the images are not what the dataset promises.
    ValueError
        If a setting does not fit the data.
    """
    stages = Stages() if stages is None else stages
    with stages("data"):
        split = split_of(job) if split is None else split
        reader, model = reader_of(job), build_model(job.model)
        localizer(job.localizer)  # a name that does not exist fails before any work
    with stages("features"):
        train = reader.pooled(split.train, maps=has_masks(split))
    with stages("model"), one_blas_thread(), naming(split.train):
        model.fit(train)
    return Fitted(job, split, reader=reader, model=model, train=train)


def has_masks(split: Split) -> bool:
    """Return whether anomaly maps can be measured.

    Then feature maps are kept whatever the localizer, so that a sweep over localizers that begins
    with `none` extracts once.
    """
    return any(sample.mask_name for sample in split.test)


def wants_maps(job: Job, split: Split) -> bool:
    """Return whether pixel-level results are to be had: with a localizer and masks."""
    return job.localizer != "none" and has_masks(split)


def split_of(job: Job) -> Split:
    """Return the images of a job."""
    return load_split(
        job.dataset,
        job.category,
        seed=job.seed,
        n_train=job.n_train,
        train_contamination=job.train_contamination,
    )


def reader_of(job: Job) -> FeatureReader:
    """Return what reads the features of a job."""
    return feature_reader(
        job.backbone,
        job.features,
        image_size=job.image_size,
        center_crop=job.center_crop,
        random_seed=job.seed if job.allow_random_weights else None,
    )


@contextmanager
def naming(samples: Sequence[Sample]) -> Iterator[None]:
    """Let an error about a row of features name the image it came from."""
    try:
        yield
    except NonFiniteError as error:
        raise DataError(f"{samples[error.row].name}: {error}") from error


class _Maps:
    """The feature maps of samples, one at a time and as often as they are asked for."""

    def __init__(self, reader: FeatureReader, samples: Sequence[Sample]) -> None:
        self.reader, self.samples = reader, samples

    def __iter__(self) -> Iterator[NDArray]:
        return self.reader.maps(self.samples)


FOLDS = 10
"""Of the training images, each held out once from a model that scores it."""


def quantile_score(train_scores: NDArray[np.float64], quantile: float) -> float:
    """Return the training score that so large a share of the training scores do not exceed.

    Parameters
    ----------
    train_scores : ndarray of shape (n,)
        Held-out anomaly scores.
    quantile : float
        The share, in (0, 1].

    Returns
    -------
    float
        One of the scores; an image is called anomalous if its own lies above.

    Examples
    --------
    >>> quantile_score(np.array([4.0, 1.0, 2.0, 3.0]), 0.75)
    3.0
    """
    return float(np.quantile(train_scores, quantile, method="inverted_cdf"))


def threshold_of(fitted: Fitted) -> float | None:
    """Return the lowest score that a job calls anomalous, by its training images alone.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    float, optional
        None where the job names no `threshold_quantile`.

    Raises
    ------
    ValueError
        If there are too few training images to hold some out.
    """
    quantile = fitted.job.threshold_quantile
    if quantile is None:
        return None
    check_holding_out(fitted.job, len(fitted.train), setting="threshold_quantile must be null")
    with one_blas_thread():
        above = quantile_score(held_out_scores(fitted), quantile)
    return float(np.nextafter(above, np.inf))


def held_out_scores(fitted: Fitted) -> NDArray[np.float64]:
    """Score each training image by a model that was not fitted on it.

    A model gives the images it was fitted on far lower scores than any other normal image: to
    their nearest training image, for instance, they have no distance at all.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    ndarray of shape (n,)
        Anomaly scores, in the order of the training images.
    """
    scores = np.empty(len(fitted.train))
    for rest, held_out in folds(fitted):
        scores[held_out] = rest.model.anomaly_score(fitted.train[held_out])
    return scores


def check_holding_out(job: Job, n_train: int, *, setting: str) -> None:
    """Refuse a job whose model cannot be fitted without the images that are held out in turn.

    Parameters
    ----------
    job : Job
        The job.
    n_train : int
        How many training images it has.
    setting : str
        What asks for it, as `name must be value`.

    Raises
    ------
    ValueError
        In one line: how many images the model needs, and how many are left to it.
    """
    least = getattr(build_model(job.model), "min_samples", 1)
    left = n_train - math.ceil(n_train / FOLDS)
    if left < least:
        raise ValueError(
            f"{setting} where a tenth of the training images cannot be held out:"
            f" {job.model.name} needs {least} images, got {left} of {n_train} without that tenth"
        )


def folds(fitted: Fitted) -> Iterator[tuple[Fitted, NDArray[np.intp]]]:
    """Yield, for each fold, the job fitted on the other folds, and the fold's images.

    Parameters
    ----------
    fitted : Fitted
        A fitted job; its seed draws the folds.

    Yields
    ------
    rest : Fitted
        The job fitted without the fold.
    held_out : ndarray of shape (n_fold,)
        The fold's images, as positions among the training images.
    """
    job, train = fitted.job, fitted.train
    parts = KFold(min(FOLDS, len(train)), shuffle=True, random_state=job.seed)
    for rest, held_out in parts.split(train):
        split = replace(fitted.split, train=tuple(fitted.split.train[k] for k in rest))
        model = build_model(job.model).fit(train[rest])
        yield replace(fitted, split=split, model=model, train=train[rest]), held_out


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
