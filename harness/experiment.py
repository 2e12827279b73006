"""One experiment: from a job to its record, and the job's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.config import Job, without_seed
from harness.data import Sample, Split
from harness.features.extractor import without_folder
from harness.features.spec import ExtractionSpec
from harness.fitting import (
    Fitted,
    anomaly_maps,
    build_model,
    features_of,
    fit,
    has_masks,
    naming,
    pixel_results,
    reader_of,
    score,
    spec_of,
    split_of,
    threshold_of,
)
from harness.metrics import image_metrics
from harness.record import EXTRACTION, SCHEMA_VERSION, ImageScore, Mistake, Record, Stages
from harness.system.threads import one_blas_thread

EACH = 3
"""At most so many false alarms, and so many misses, are shown."""


def evaluate(
    job: Job,
    stages: Stages | None = None,
    *,
    split: Split | None = None,
    keep: Callable[[Fitted], object] | None = None,
) -> Record:
    """Train on the normal images of a category, score its test images, measure the scores.

    Parameters
    ----------
    job : Job
        What to run.
    stages : Stages, optional
        The stopwatch to time its stages with.
    split : Split, optional
        The images of the job, where they have been read already.
    keep : callable, optional
        Called with the fitted job once its scores are measured.

    Returns
    -------
    Record
        Raw scores, metrics, and what is needed to trace them.

    Raises
    ------
    DataError
        If the images are not what the dataset promises.
    ValueError
        If a setting does not fit the data.
    """
    stages = Stages() if stages is None else stages
    fitted = fit(job, stages, split=split)
    record = measure(fitted, stages)
    if keep is not None:
        keep(fitted)
    return record


def measure(fitted: Fitted, stages: Stages) -> Record:
    """Score the test images with a fitted model and measure the scores."""
    job, split, spec = fitted.job, fitted.split, fitted.spec
    before = fitted.reader.n_extracted
    with stages("features"):
        test = features_of(job, fitted.reader, split.test, maps=has_masks(split))
    n_extracted = fitted.n_extracted + fitted.reader.n_extracted - before
    if n_extracted == len(split.train) + len(split.test):
        stages.seconds[EXTRACTION] = stages.seconds["features"]
    with stages("model"), one_blas_thread(), naming(split.test):
        scores, maps = score(fitted.model, test) if split.test else (np.empty(0), [])
        threshold = threshold_of(fitted)
    with stages("image metrics"):
        labels = [sample.anomalous for sample in split.test]
        image = image_metrics(labels, scores, threshold=threshold)
    with stages("anomaly maps"):
        if has_masks(split):
            maps = maps or anomaly_maps(fitted)
    with stages("pixel metrics"):
        pixel = pixel_results(fitted, maps)
    image_scores = [
        ImageScore(sample.name, sample.defect_type, sample.anomalous, score)
        for sample, score in zip(split.test, scores.tolist(), strict=True)
    ]
    covers = 1.0 if job.center_crop is None else job.center_crop / job.image_size
    return Record(
        dataset=job.dataset.name,
        category=job.category,
        model=job.model.name,
        backbone=job.backbone.label,
        model_factory=job.model.factory,
        backbone_factory=job.backbone.factory,
        seed=job.seed,
        settings=settings(job, spec),
        weights_digest=spec.weights_digest,
        data_fingerprint=split.fingerprint,
        official=split.official,
        n_train=len(split.train),
        n_test_normal=labels.count(False),
        n_test_anomalous=labels.count(True),
        metrics=image.values | pixel.values,
        undefined=image.undefined | pixel.undefined,
        scores=tuple(image_scores),
        durations=stages.seconds,
        n_left_out=split.n_left_out,
        n_duplicates=split.n_duplicates,
        mistakes=most_wrong(split.test, image_scores, maps, covers=covers),
    )


def identify(job: Job, split: Split | None = None) -> str:
    """Return the identity of a job from its data and its backbone, without running it."""
    split = split_of(job) if split is None else split
    return identity(job, spec_of(job, reader_of(job)), fingerprint=split.fingerprint)


def identity(job: Job, spec: ExtractionSpec, *, fingerprint: str) -> str:
    """Return a job's identity, 64 hexadecimal digits, with how its features are made resolved.

    `fingerprint` is the digest of the category's files. No path, no tracking store, no library
    version and no launcher enters.
    """
    parts = {
        "schema": SCHEMA_VERSION,
        "dataset": job.dataset.name,
        "category": job.category,
        "fingerprint": fingerprint,
        "weights": spec.weights_digest,
        "network": spec.network_digest,
        "model": without_folder(job.model.factory),
        "seed": job.seed,
        "settings": _values(job, spec),
    }
    # As JSON, for null and the text `None` are two values.
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def settings(job: Job, spec: ExtractionSpec) -> dict[str, str]:
    """Return the values that determine a job's numbers beside data, weights and seed.

    Flat and sorted; every parameter of the model is there, defaults included.
    """
    return {name: str(value) for name, value in sorted(_values(job, spec).items())}


def _values(job: Job, spec: ExtractionSpec) -> dict[str, object]:
    # A function that builds the model may take what is no parameter of the model.
    params = without_seed(job.model.params | build_model(job.model).get_params(), job.seed)
    features = {
        "features.device": spec.device,
        "features.engine": spec.engine,
        "features.precision": spec.precision,
        "features.resize": spec.resize,
        "backbone.layers": ",".join(spec.layers),
        "backbone.mean": _numbers(spec.mean),
        "backbone.std": _numbers(spec.std),
    }
    layers = {"model.layers": ",".join(job.map_layers)} if job.map_layers else {}
    model = layers | {f"model.{name}": value for name, value in params.items()}
    return job.protocol() | features | model


def _numbers(values: Iterable[float]) -> str:
    # As float32, which they are computed with: 0.485, not 0.48500001430511475.
    return ",".join(str(np.float32(value)) for value in values)


def most_wrong(
    test: Sequence[Sample],
    scores: Sequence[ImageScore],
    maps: Sequence[NDArray],
    *,
    covers: float = 1.0,
) -> tuple[Mistake, ...]:
    """Return the images of `wrong_side` with their files and, if there are any, anomaly maps.

    Samples, scores and maps are in the same order; `covers` is as in `Mistake`.
    """
    place = {score.image: number for number, score in enumerate(scores)}
    return tuple(
        Mistake(
            image,
            f"{kind.replace('_', ' ')}: {note}",
            path=test[place[image.image]].path,
            anomaly_map=maps[place[image.image]] if maps else None,
            covers=covers,
        )
        for kind, image, note in wrong_side(scores)
    )


def wrong_side(scores: Sequence[ImageScore]) -> Iterator[tuple[str, ImageScore, str]]:
    """Yield images on the wrong side of some image of the other kind, the farthest first.

    Each with its kind, `false_alarm` or `miss`, and with how many images it is on the wrong side
    of, in words.
    """
    normal = sorted((s for s in scores if not s.anomalous), key=lambda s: -s.score)
    anomalous = sorted((s for s in scores if s.anomalous), key=lambda s: s.score)
    for image in normal[:EACH]:
        below = sum(other.score <= image.score for other in anomalous)
        if below:
            note = f"{below} of {len(anomalous)} anomalous images score no higher"
            yield "false_alarm", image, note
    for image in anomalous[:EACH]:
        above = sum(other.score >= image.score for other in normal)
        if above:
            yield "miss", image, f"{above} of {len(normal)} normal images score no lower"
