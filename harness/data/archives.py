"""The published archives: where they are, what they must be, and their licences."""

from __future__ import annotations

from typing import NamedTuple


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
