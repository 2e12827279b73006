"""A job's model and localizer, fitted on its training images: what can be kept and predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dfkde import AnomalyDetector, Localizer, NonFiniteError, localizer
from harness.config import Job
from harness.data import DataError, Sample, Split, load_split
from harness.features import FeatureReader, feature_reader
from harness.models import build_model
from harness.stages import Stages
from harness.threads import one_blas_thread


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
