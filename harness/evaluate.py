"""The whole experiment: from a job to its record."""

from __future__ import annotations

from harness.config import Job
from harness.data import Sample, Split
from harness.fitting import Fitted, fit, has_masks, naming, reader_of, split_of, wants_maps
from harness.holdout import threshold_of
from harness.identity import identity, settings
from harness.localize import anomaly_grids, pixel_results
from harness.metrics import image_metrics
from harness.mistakes import most_wrong
from harness.record import ImageScore, Record
from harness.stages import Stages
from harness.threads import one_blas_thread


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
    job, split, recipe = fitted.job, fitted.split, fitted.reader.recipe
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
        settings=settings(job, recipe),
        weights_digest=recipe.weights_digest,
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
        See `harness.identity.identity`.

    Raises
    ------
    DataError, ValueError
        As `evaluate`.
    """
    split = split_of(job) if split is None else split
    return identity(job, reader_of(job).recipe, fingerprint=split.fingerprint)


def _covers(job: Job) -> float:
    """Return the share of an image's height and width that the backbone sees."""
    return 1.0 if job.center_crop is None else job.center_crop / job.image_size


def _image_score(sample: Sample, score: float) -> ImageScore:
    return ImageScore(sample.name, sample.defect_type, sample.anomalous, score)
