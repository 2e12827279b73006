"""From a dataset's settings to a verified split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import yaml

from harness.config import DatasetConfig, conf_dir
from harness.data.inspection import fingerprint
from harness.data.listing import DataError, ImageFile, Problem
from harness.data.split import Sample, Split, contaminate, few_shot
from harness.data.survey import Survey, survey
from harness.system.terminal import alike

_NEEDED = ("name", "title", "reader", "categories")


def dataset_settings(name: str, *, root: str | None = None) -> DatasetConfig:
    """Read the settings of a dataset.

    Parameters
    ----------
    name : str
        The name of a file in `conf/dataset`, or the path of a file of that form.
    root : str, optional
        Where the dataset lies, if not in its usual place.

    Raises
    ------
    DataError
        If there is no such file, or it has an unknown or missing key.
    """
    path = _settings_file(name)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = [field.name for field in fields(DatasetConfig)]
    if unknown := [key for key in settings if key not in keys]:
        raise DataError(f"{path}: '{unknown[0]}' is not one of {', '.join(keys)}")
    if missing := [key for key in _NEEDED if key not in settings]:
        raise DataError(f"{path}: '{missing[0]}' is missing")
    dataset = DatasetConfig(**settings)
    return dataset if root is None else replace(dataset, root=root)


def _settings_file(name: str) -> Path:
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    folder = conf_dir() / "dataset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        choices = f"{', '.join(known)}, or the path of a .yaml file"
        raise DataError(f"dataset must be one of {choices}, got '{name}'{alike(name, known)}")
    return folder / f"{name}.yaml"


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
