"""The whole experiment: from a job to its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dfkde import NonFiniteError
from harness.config import Job
from harness.data import DataError, Sample, Split, load_split
from harness.features import FeatureReader, feature_reader
from harness.identity import identity, settings
from harness.localize import pixel_results
from harness.metrics import image_metrics
from harness.models import build_model
from harness.record import ImageScore, Record
from harness.stages import Stages


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
    with stages("data"):
        split, reader, model = _split(job), _reader(job), build_model(job.model)
    with stages("features"):
        train, test = reader.pooled(split.train), reader.pooled(split.test)
    with stages("model"):
        with _naming(split.train):
            model.fit(train)
        with _naming(split.test):
            scores = model.anomaly_score(test)
    with stages("image metrics"):
        labels = [sample.anomalous for sample in split.test]
        image = image_metrics(labels, scores)
    with stages("pixel metrics"):
        pixel = pixel_results(job, split, model=model, train=train, reader=reader)
    return Record(
        dataset=job.dataset.name,
        category=job.category,
        model=job.model.name,
        backbone=job.backbone.name,
        seed=job.seed,
        settings=settings(job, reader.recipe),
        weights_digest=reader.recipe.weights_digest,
        data_fingerprint=split.fingerprint,
        official=split.official,
        n_train=len(split.train),
        n_test_normal=labels.count(False),
        n_test_anomalous=labels.count(True),
        metrics=image.values | pixel.values,
        undefined=image.undefined | pixel.undefined,
        scores=tuple(map(_image_score, split.test, scores.tolist())),
        durations=stages.seconds,
    )


def identify(job: Job) -> str:
    """Return the identity of a job from its data and its backbone, without running it.

    Parameters
    ----------
    job : Job
        The job.

    Returns
    -------
    str
        See `harness.identity.identity`.

    Raises
    ------
    DataError, ValueError
        As `evaluate`.
    """
    return identity(job, _reader(job).recipe, fingerprint=_split(job).fingerprint)


def _split(job: Job) -> Split:
    return load_split(
        job.dataset,
        job.category,
        seed=job.seed,
        n_train=job.n_train,
        train_contamination=job.train_contamination,
    )


def _reader(job: Job) -> FeatureReader:
    return feature_reader(job.backbone, job.features, image_size=job.image_size)


def _image_score(sample: Sample, score: float) -> ImageScore:
    return ImageScore(sample.name, sample.defect_type, sample.anomalous, score)


@contextmanager
def _naming(samples: Sequence[Sample]) -> Iterator[None]:
    """Let an error about a row of features name the image it came from."""
    try:
        yield
    except NonFiniteError as error:
        raise DataError(f"{samples[error.row].name}: {error}") from error
