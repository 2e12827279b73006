"""Where a dataset lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from harness.config import DatasetConfig
from harness.data.archives import ARCHIVES
from harness.data.errors import DataError
from harness.data.readers.elpv import packaged_root

ROOT_VARIABLE = "DFKDE_DATA"
"""The environment variable of the folder that holds one folder per dataset."""


def dataset_root(dataset: DatasetConfig) -> Path:
    """Return the folder that holds a dataset's categories.

    It is `dataset.root`, else `$DFKDE_DATA/<name>`, else `data/<name>`, else, for ELPV, the folder
    inside the installed package.

    Raises
    ------
    DataError
        If that folder does not exist.
    """
    root = usual_root(dataset)
    if root.is_dir():
        return root
    packaged = packaged_root() if dataset.root is None and dataset.reader == "elpv" else None
    if packaged is not None and packaged.is_dir():
        return packaged
    raise DataError(
        f"{dataset.title} is not at '{root}': set dataset.root=PATH, or put it in "
        f"${ROOT_VARIABLE}/{dataset.name} or data/{dataset.name}; {_how_to_fetch(dataset)}"
    )


def usual_root(dataset: DatasetConfig) -> Path:
    """Return where a dataset is expected, whether or not it is there.

    Raises
    ------
    DataError
        If the path starts with `~` and there is no such home directory.
    """
    if dataset.root is not None:
        return _expanded(dataset.root, setting="dataset.root")
    return _expanded(os.environ.get(ROOT_VARIABLE) or "data", setting=ROOT_VARIABLE) / dataset.name


def _expanded(path: str, *, setting: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{setting}='{path}' is in a home directory that is not known") from error


def _how_to_fetch(dataset: DatasetConfig) -> str:
    if dataset.reader == "elpv":
        return "`pip install elpv-dataset` fetches it"
    if dataset.reader == "folder":
        return "it holds the folders of your own images"
    if dataset.name not in ARCHIVES:
        return f"`python -m harness.data fetch` fetches only {', '.join(ARCHIVES)}"
    return f"`python -m harness.data fetch dataset={dataset.name}` fetches it"
