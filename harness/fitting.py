"""A fitted job: its model, its threshold and its anomaly maps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from dfkde import AnomalyDetector, Localizer, MapDetector, NonFiniteError, localizer, render
from dfkde.registry import resolve
from harness.config import Job, ModelConfig
from harness.data import DataError, Sample, Split, decoding_of, load_split, read_mask
from harness.features.reader import FeatureReader, feature_reader
from harness.features.settings import region
from harness.features.spec import ExtractionSpec
from harness.metrics import METRICS, MetricValues, evaluation_size, pixel_metrics, resize_mask
from harness.metrics.ranks import Pair
from harness.record import Stages
from harness.system.terminal import nearest
from harness.system.threads import available, one_blas_thread, parallel_map

FOLDS = 10
"""Of the training images, each held out once from a model that scores it."""

# Threads that render: enough to keep ahead of the metrics, few enough to hold a few maps only.
_RENDERERS = 2


@dataclass(frozen=True)
class Fitted:
    """A model fitted on the training images of a job."""

    job: Job
    split: Split
    reader: FeatureReader
    model: AnomalyDetector | MapDetector
    train: Features
    """Of the training images, what the model is fitted on."""
    n_extracted: int
    """Number of these images that went through the backbone; the others came from the cache."""

    @cached_property
    def localizer(self) -> Localizer | None:
        """The fitted localizer, None for `none`; fitted when first asked for, as not all ask."""
        unfitted = localizer(self.job.localizer)
        if unfitted is None:
            return None
        maps = Maps(self.reader.maps, self.split.train)
        return unfitted.fit(self.model, np.asarray(self.train), maps)

    @property
    def spec(self) -> ExtractionSpec:
        """What determines the features besides the images."""
        return spec_of(self.job, self.reader)


def fit(job: Job, stages: Stages | None = None, *, split: Split | None = None) -> Fitted:
    """Train on the normal images of a category.

    Parameters
    ----------
    job : Job
        What to fit.
    stages : Stages, optional
        The stopwatch to time its stages with.
    split : Split, optional
        The images of the job, where they have been read already.

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
        check_kind(job, model)
    before = reader.n_extracted
    with stages("features"):
        train = features_of(job, reader, split.train, maps=has_masks(split))
    with stages("model"), one_blas_thread(), naming(split.train):
        model.fit(train)
    n_extracted = reader.n_extracted - before
    return Fitted(job, split, reader=reader, model=model, train=train, n_extracted=n_extracted)


def build_model(config: ModelConfig) -> Any:
    """Return an unfitted estimator; a ValueError names the class or the parameter that is wrong."""
    try:
        factory = (_resolved_once if ".py:" in config.factory else resolve)(config.factory)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise ValueError(
            "model.factory must be an importable 'module:class' or 'path/to/file.py:class',"
            f" got {config.factory!r} ({error})"
        ) from error
    accepted = list(inspect.signature(factory).parameters)
    for name in config.params:
        if name not in accepted:
            choices = f"{nearest(name, accepted)} Choose from: {', '.join(accepted)}"
            rule = f"model.params.{name} is not a parameter of {config.factory}"
            raise ValueError(rule + (choices if accepted else ", which has none"))
    return factory(**config.params)


# Of a file as of an imported module: a process runs the code that it has read first.
_resolved_once = cache(resolve)


def check_kind(job: Job, model: object) -> None:
    """Refuse a model on maps without layers, and layers for a model on pooled features."""
    on_maps = isinstance(model, MapDetector)
    if on_maps != bool(job.map_layers):
        rule = "name layers by backbone" if on_maps else "be empty"
        kind = "the maps of layers" if on_maps else "pooled features"
        raise ValueError(
            f"model.layers must {rule} for {job.model.factory}, which scores {kind},"
            f" got {job.model.layers}"
        )


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
        decoding=decoding_of(job.dataset),
        map_layers=job.pass_layers or tuple(sorted(job.map_layers)),
    )


def spec_of(job: Job, reader: FeatureReader) -> ExtractionSpec:
    """Return what determines the features of a job besides the images."""
    return reader.spec_with(tuple(sorted(job.map_layers)))


def features_of(
    job: Job, reader: FeatureReader, samples: Sequence[Sample], *, maps: bool
) -> Features:
    """Return what the model of a job scores: pooled features, or maps that are read one by one.

    `maps` is whether anomaly maps will be measured.
    """
    layers = job.map_layers
    if not layers:
        return reader.pooled(samples, maps=maps)
    reader.keep_layer_maps(samples, layers, maps=maps and job.pass_pooled)
    return Maps(partial(reader.layer_maps, layers=layers), samples)


def score(
    model: AnomalyDetector | MapDetector, features: Features
) -> tuple[NDArray[np.float64], list[NDArray]]:
    """Return the anomaly scores (n,) of images, and the maps of a model that makes its own."""
    if not isinstance(model, MapDetector):
        return model.anomaly_score(np.asarray(features)), []
    found = parallel_map(
        lambda one: model.score(one[1], row=one[0]), enumerate(features), available()
    )
    scores, maps = zip(*found, strict=True)
    return np.array(scores), list(maps)


def has_masks(split: Split) -> bool:
    """Return whether anomaly maps can be measured.

    Then feature maps are kept whatever the localizer, so that a sweep over localizers that begins
    with `none` extracts once.
    """
    return any(sample.mask_name for sample in split.test)


@contextmanager
def naming(samples: Sequence[Sample]) -> Iterator[None]:
    """Let an error about a row of features name the image it came from."""
    try:
        yield
    except NonFiniteError as error:
        raise DataError(f"{samples[error.row].name}: {error}") from error


def threshold_of(fitted: Fitted) -> float | None:
    """Return the lowest score that a job calls anomalous, by its training images alone.

    None where the job names no `threshold_quantile`.
    """
    quantile = fitted.job.threshold_quantile
    if quantile is None:
        return None
    n_train = n_distinct(fitted.split)
    check_holding_out(fitted.job, n_train, setting="threshold_quantile must be null")
    with one_blas_thread():
        above = quantile_score(held_out(fitted, maps=False)[0], quantile)
    return float(np.nextafter(above, np.inf))


def quantile_score(train_scores: NDArray[np.float64], quantile: float) -> float:
    """Return the training score that a share in (0, 1] of the training scores do not exceed.

    An image is called anomalous if its own score lies above.

    >>> quantile_score(np.array([4.0, 1.0, 2.0, 3.0]), 0.75)
    3.0
    """
    return float(np.quantile(train_scores, quantile, method="inverted_cdf"))


def held_out(
    fitted: Fitted, *, maps: bool = True
) -> tuple[NDArray[np.float64], list[float] | None]:
    """Score the training images, in their order, by models that were not fitted on them.

    A model gives the images it was fitted on far lower scores than any other normal image: to
    their nearest training image, for instance, they have no distance at all.

    With `maps`, the same models map them, and the values are the median over these maps, then the
    maximum of each; None without maps. Drawing smooths the fine maps of a model on layers, so of
    these the maxima are those of the maps as drawn. Where no feature maps are cached, a localizer
    maps the images of the first fold alone: each fold reads those of all images.
    """
    scores, found, maxima = np.empty(len(fitted.train)), list[NDArray](), list[float]()
    for fold, (rest, places) in enumerate(folds(fitted)):
        scores[places], own = score(rest.model, fitted.train[places])
        if not maps:
            continue
        drawn = [render(one, size=fitted.spec.shape[-2:]) for one in own]
        if (fitted.job.features.maps or fold == 0) and (locate := rest.localizer):
            samples = [fitted.split.train[k] for k in places]
            own = drawn = [locate.anomaly_map(one) for one in fitted.reader.maps(samples)]
        found += own
        maxima += [float(one.max()) for one in drawn]
    return scores, [float(np.median(found)), *maxima] if maxima else None


def folds(fitted: Fitted) -> Iterator[tuple[Fitted, NDArray[np.intp]]]:
    """Yield, for each fold, the job fitted on the other folds, and the fold's training images.

    The images are given by their positions; the job's seed draws the folds. Images of the same
    bytes are held out together.
    """
    job, train = fitted.job, fitted.train
    digests = [sample.digest for sample in fitted.split.train]
    number = {digest: k for k, digest in enumerate(dict.fromkeys(digests))}
    group = np.array([number[digest] for digest in digests])
    parts = KFold(min(FOLDS, len(number)), shuffle=True, random_state=job.seed)
    for groups, _ in parts.split(range(len(number))):
        within = np.isin(group, groups)
        rest, held_out = np.flatnonzero(within), np.flatnonzero(~within)
        split = replace(fitted.split, train=tuple(fitted.split.train[k] for k in rest))
        model = build_model(job.model).fit(train[rest])
        yield replace(fitted, split=split, model=model, train=train[rest]), held_out


def n_distinct(split: Split) -> int:
    """Count the training images of different bytes: no two of the same come apart."""
    return len({sample.digest for sample in split.train})


def check_holding_out(job: Job, n_train: int, *, setting: str) -> None:
    """Refuse a job whose model cannot be fitted without the images that are held out in turn.

    `setting` is what asks for it, as `name must be value`.
    """
    least = getattr(build_model(job.model), "min_samples", 1)
    left = n_train - math.ceil(n_train / FOLDS)
    if left < least:
        raise ValueError(
            f"{setting} where a tenth of the training images cannot be held out:"
            f" {job.model.name} needs {least} images, got {left} of {n_train} without that tenth"
        )


def anomaly_maps(fitted: Fitted) -> list[NDArray]:
    """Map the anomaly score over each test image, shape (h, w) of the feature map.

    In the order of the test images; empty with localizer=none and a model on pooled features.
    """
    with one_blas_thread():
        if isinstance(fitted.model, MapDetector):
            test = features_of(fitted.job, fitted.reader, fitted.split.test, maps=False)
            return score(fitted.model, test)[1]
        locate = fitted.localizer
        if locate is None:
            return []
        maps = fitted.reader.maps(fitted.split.test)
        return list(parallel_map(locate.anomaly_map, maps, available()))


def pixel_results(fitted: Fitted, maps: Sequence[NDArray]) -> MetricValues:
    """Compute the pixel-level metrics of a fitted model from `anomaly_maps`.

    All are undefined, with the reason, where there are no masks or no localizer.
    """
    job, test = fitted.job, fitted.split.test
    if not maps or not has_masks(fitted.split):
        reason = f"{job.dataset.name}/{job.category} has no ground truth masks"
        if has_masks(fitted.split):
            reason = "localizer=none makes no anomaly maps"
        names = [metric.name for metric in METRICS.values() if metric.level == "pixel"]
        return MetricValues({}, dict.fromkeys(names, reason))

    # Each pass of the metrics renders the small maps again, so that they are never held at full
    # size all at once.
    def pairs() -> Iterator[Pair]:
        images = zip(test, maps, strict=True)
        return parallel_map(lambda one: _pair(*one, job=job), images, min(_RENDERERS, available()))

    with one_blas_thread():  # all of this has threads of its own
        return pixel_metrics(pairs, threads=available())


def gt_mask_of(sample: Sample, job: Job) -> NDArray[np.bool_]:
    """Return the part of a mask (H, W) that the backbone sees; all False for a normal image.

    In the mask's own pixels. What lies outside of a crop is in no map, so that no map can be right
    or wrong about it.
    """
    if sample.mask_path is None:
        gt_mask = np.zeros(sample.size, dtype=bool)
    else:
        gt_mask = read_mask(sample.mask_path, sample.mask_digest, sample.decoding)
    return gt_mask[region(gt_mask.shape, image_size=job.image_size, center_crop=job.center_crop)]


@dataclass(frozen=True)
class Maps:
    """What a reader yields for samples, one sample at a time and as often as asked for."""

    read: Callable[[Sequence[Sample]], Iterator[Any]]
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Any]:
        return self.read(self.samples)

    def __getitem__(self, places: NDArray[np.intp]) -> Maps:
        return Maps(self.read, [self.samples[k] for k in places])


Features = NDArray[np.float32] | Maps
"""Of images: pooled (n, D), or the maps of layers."""


def _pair(sample: Sample, anomaly_map: NDArray, *, job: Job) -> Pair:
    """Return the mask and the anomaly map of an image at the size of the evaluation."""
    gt_mask = gt_mask_of(sample, job)
    gt_mask = resize_mask(gt_mask, evaluation_size(gt_mask.shape, job.pixel_resolution))
    return sample.name, gt_mask, render(anomaly_map, size=gt_mask.shape)
