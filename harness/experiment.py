"""The whole experiment: from a job to its record, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.config import Job
from harness.data import Sample, Split
from harness.features.spec import ExtractionSpec
from harness.fitting import (
    Fitted,
    anomaly_grids,
    build_model,
    fit,
    has_masks,
    naming,
    pixel_results,
    reader_of,
    split_of,
    threshold_of,
    wants_maps,
    without_seed,
)
from harness.metrics import image_metrics
from harness.record import SCHEMA_VERSION, ImageScore, Mistake, Record, Stages
from harness.system.threads import one_blas_thread


def settings(job: Job, spec: ExtractionSpec) -> dict[str, str]:
    """Return the values that determine a job's numbers beside data, weights and seed.

    Parameters
    ----------
    job : Job
        The job.
    spec : ExtractionSpec
        How its features are made, every `auto` resolved.

    Returns
    -------
    dict of str to str
        Flat and sorted; every parameter of the model stands there, defaults included.
    """
    return {name: str(value) for name, value in sorted(_values(job, spec).items())}


def _values(job: Job, spec: ExtractionSpec) -> dict[str, object]:
    # What a function takes that builds the model need not be a parameter of the model.
    params = job.model.params | build_model(job.model).get_params()
    return (
        job.protocol()
        | {
            "features.device": spec.device,
            "features.engine": spec.engine,
            "features.precision": spec.precision,
            "features.resize": spec.resize,
            "backbone.layers": ",".join(spec.layers),
            "backbone.mean": _numbers(spec.mean),
            "backbone.std": _numbers(spec.std),
        }
        | {f"model.{name}": value for name, value in without_seed(params, job.seed).items()}
    )


def identity(job: Job, spec: ExtractionSpec, *, fingerprint: str) -> str:
    """Return the job's identity.

    Parameters
    ----------
    job : Job
        The job.
    spec : ExtractionSpec
        How its features are made.
    fingerprint : str
        Digest of the category's files.

    Returns
    -------
    str
        64 hexadecimal digits. No path, no tracking store, no library version and no launcher
        enters.
    """
    parts = {
        "schema": SCHEMA_VERSION,
        "dataset": job.dataset.name,
        "category": job.category,
        "fingerprint": fingerprint,
        "weights": spec.weights_digest,
        "network": spec.network_digest,
        "model": job.model.factory,
        "seed": job.seed,
        "settings": _values(job, spec),
    }
    # As JSON, for null and the text `None` are two values.
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(values: Iterable[float]) -> str:
    # As float32, which they are computed with: 0.485, not 0.48500001430511475.
    return ",".join(str(np.float32(value)) for value in values)


EACH = 3
"""How many false alarms and how many misses at most."""


def most_wrong(
    test: Sequence[Sample],
    scores: Sequence[ImageScore],
    grids: Sequence[NDArray],
    *,
    covers: float = 1.0,
) -> tuple[Mistake, ...]:
    """Choose the images on the wrong side of images of the other kind, the farthest first.

    Parameters
    ----------
    test : sequence of Sample
        The test images.
    scores : sequence of ImageScore
        Their scores, in the same order.
    grids : sequence of ndarray of shape (h, w)
        Their anomaly maps, in the same order; empty if there are none.
    covers : float
        As in `Mistake`.

    Returns
    -------
    tuple of Mistake
        False alarms, then misses; none where the scores separate the two kinds.
    """
    place = {score.image: number for number, score in enumerate(scores)}
    return tuple(
        Mistake(
            image,
            f"{kind.replace('_', ' ')}: {note}",
            path=test[place[image.image]].path,
            anomaly_map=grids[place[image.image]] if grids else None,
            covers=covers,
        )
        for kind, image, note in wrong_side(scores)
    )


def wrong_side(scores: Sequence[ImageScore]) -> Iterator[tuple[str, ImageScore, str]]:
    """Choose images on the wrong side of some image of the other kind, the farthest first.

    Yields
    ------
    tuple of str, ImageScore and str
        `false_alarm` or `miss`, the image, and how many images it is on the wrong side of.
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


def evaluate(job: Job, stages: Stages | None = None) -> Record:
    """Train on the normal images of a category, score its test images, measure the scores.

    Parameters
    ----------
    job : Job
        What to run.
    stages : Stages, optional
        The stopwatch to time its stages with.

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
    return measure(fit(job, stages), stages)


def measure(fitted: Fitted, stages: Stages) -> Record:
    """Score the test images with a fitted model and measure the scores.

    Parameters
    ----------
    fitted : Fitted
        The model.
    stages : Stages
        The stopwatch that it was fitted with.

    Returns
    -------
    Record
        As `evaluate`.
    """
    job, split, spec = fitted.job, fitted.split, fitted.reader.spec
    with stages("features"):
        test = fitted.reader.pooled(split.test, maps=has_masks(split))
    with stages("model"), one_blas_thread(), naming(split.test):
        scores = fitted.model.anomaly_score(test)
        threshold = threshold_of(fitted)
    with stages("image metrics"):
        labels = [sample.anomalous for sample in split.test]
        image = image_metrics(labels, scores, threshold=threshold)
    with stages("anomaly maps"):
        grids = anomaly_grids(fitted) if wants_maps(job, split) else []
    with stages("pixel metrics"):
        pixel = pixel_results(fitted, grids)
    image_scores = tuple(map(_image_score, split.test, scores.tolist()))
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
        scores=image_scores,
        durations=stages.seconds,
        mistakes=most_wrong(split.test, image_scores, grids, covers=_covers(job)),
    )


def identify(job: Job, split: Split | None = None) -> str:
    """Return the identity of a job from its data and its backbone, without running it.

    Parameters
    ----------
    job : Job
        The job.
    split : Split, optional
        Its images, where they are known already.

    Returns
    -------
    str
        See `harness.experiment.identity`.

    Raises
    ------
    DataError, ValueError
        As `evaluate`.
    """
    split = split_of(job) if split is None else split
    return identity(job, reader_of(job).spec, fingerprint=split.fingerprint)


def _covers(job: Job) -> float:
    """Return the share of an image's height and width that the backbone sees."""
    return 1.0 if job.center_crop is None else job.center_crop / job.image_size


def _image_score(sample: Sample, score: float) -> ImageScore:
    return ImageScore(sample.name, sample.defect_type, sample.anomalous, score)
