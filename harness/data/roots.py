"""Where a dataset lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from harness.config import DatasetConfig
from harness.data.listing import DataError
from harness.data.readers import packaged_root


class Archive(NamedTuple):
    """One archive.

    Attributes
    ----------
    url : str
        Where it is published.
    sha256 : str
        The digest of its bytes, hexadecimal.
    licence : str
        The dataset's licence, shown before the download.
    home : str
        The dataset's own page.
    """

    url: str
    sha256: str
    licence: str
    home: str


ARCHIVES: dict[str, Archive] = {
    "mvtec": Archive(
        url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        licence="CC BY-NC-SA 4.0: no commercial use",
        home="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    ),
    "btad": Archive(
        url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        licence="CC BY-SA 4.0",
        home="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    ),
    "visa": Archive(
        url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        licence="CC BY 4.0",
        home="https://github.com/amazon-science/spot-diff",
    ),
}
"""By dataset."""


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
