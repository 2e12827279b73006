"""A dataset's settings from its file in `conf/dataset`, without Hydra."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import yaml

from harness.confdir import conf_dir
from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.show import alike

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
