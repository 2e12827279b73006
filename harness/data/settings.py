"""A dataset's settings from its file in `conf/dataset`, without Hydra."""

from __future__ import annotations

from dataclasses import fields, replace

import yaml

from harness.confdir import conf_dir
from harness.config import DatasetConfig
from harness.data.errors import DataError


def dataset_settings(name: str, *, root: str | None = None) -> DatasetConfig:
    """Read the settings of a dataset.

    Parameters
    ----------
    name : str
        The name of a file in `conf/dataset`.
    root : str, optional
        Where the dataset lies, if not in its usual place.

    Raises
    ------
    DataError
        If there is no such file, or it has an unknown key.
    """
    folder = conf_dir() / "dataset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise DataError(f"dataset must be one of {', '.join(known)}, got '{name}'")
    settings = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    keys = [field.name for field in fields(DatasetConfig)]
    if unknown := [key for key in settings if key not in keys]:
        raise DataError(f"{name}.yaml: '{unknown[0]}' is not one of {', '.join(keys)}")
    dataset = DatasetConfig(**settings)
    return dataset if root is None else replace(dataset, root=root)
