"""From a dataset's settings to a verified split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.inspection import fingerprint
from harness.data.listing import ImageFile, Problem
from harness.data.protocol import contaminate, few_shot
from harness.data.split import Sample, Split
from harness.data.survey import Survey, survey

_SHOWN = 3


def load_split(
    dataset: DatasetConfig,
    category: str,
    *,
    seed: int,
    n_train: int | None = None,
    train_contamination: float = 0.0,
) -> Split:
    """Read one category, refusing data that break a rule or differ from the published dataset.

    Parameters
    ----------
    dataset : DatasetConfig
        Where and how.
    category : str
        One of `dataset.categories`.
    seed : int
        Determines every draw, each from its own named stream.
    n_train : int, optional
        Train on a seeded subset of this many normal images; all by default.
    train_contamination : float, default 0
        The share of the training set that is anomalous, moved out of the test set.

    Returns
    -------
    Split
        With `official=False` wherever `dataset.official` is false.

    Raises
    ------
    DataError
        In one line: the first problems, each with its file and rule, and how to list them all.
    """
    found = survey(dataset, category, seed=seed)
    _refuse(found.problems, dataset, category=category)
    train = few_shot(_samples(found.listing.train, found), category, seed=seed, n_train=n_train)
    train, test = contaminate(
        train,
        _samples(found.listing.test, found),
        category=category,
        seed=seed,
        share=train_contamination,
    )
    return Split(train, test, fingerprint(found.seen), official=dataset.official)


def _samples(images: Iterable[ImageFile], found: Survey) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            root=found.root,
            name=image.name,
            defect_type=image.defect_type,
            anomalous=image.anomalous,
            mask_name=image.mask,
            digest=found.seen[image.name].digest,
            mask_digest=None if image.mask is None else found.seen[image.mask].digest,
            size=(found.seen[image.name].height, found.seen[image.name].width),
        )
        for image in images
    )


def _refuse(problems: Sequence[Problem], dataset: DatasetConfig, *, category: str) -> None:
    """Raise if a problem is fatal, or if any remains and the data must be official."""
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise DataError(
            f"{dataset.name}/{category} is broken: {_summary(fatal, dataset, category=category)}"
        )
    if problems and dataset.official:
        raise DataError(
            f"{dataset.name}/{category} differs from the published dataset "
            f"(dataset.official=false runs it as unofficial): "
            f"{_summary(problems, dataset, category=category)}"
        )


def _summary(problems: Sequence[Problem], dataset: DatasetConfig, *, category: str) -> str:
    shown = "; ".join(map(str, problems[:_SHOWN]))
    if len(problems) <= _SHOWN:
        return shown
    command = f"python -m harness.data verify dataset={dataset.name} category={category}"
    return f"{shown}; and {len(problems) - _SHOWN} more, listed by `{command}`"
