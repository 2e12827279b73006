"""Whether a backbone's weights can be had, told before what builds the backbone is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfkde.backbones.download import WeightsError, reachable

CHECKPOINTS = {
    ("resnet18", "IMAGENET1K_V1"): "resnet18-f37072fd.pth",
    ("resnet34", "IMAGENET1K_V1"): "resnet34-b627a593.pth",
    ("resnet50", "IMAGENET1K_V1"): "resnet50-0676ba61.pth",
    ("resnet50", "IMAGENET1K_V2"): "resnet50-11ad3fa6.pth",
    ("resnet101", "IMAGENET1K_V1"): "resnet101-63fe2227.pth",
    ("resnet101", "IMAGENET1K_V2"): "resnet101-cd907fc2.pth",
    ("resnet152", "IMAGENET1K_V1"): "resnet152-394f9c45.pth",
    ("resnet152", "IMAGENET1K_V2"): "resnet152-f82ba261.pth",
    ("wide_resnet50_2", "IMAGENET1K_V1"): "wide_resnet50_2-95faca4d.pth",
    ("wide_resnet50_2", "IMAGENET1K_V2"): "wide_resnet50_2-9ba9bcbe.pth",
}
"""The files of torchvision's weights, as torchvision itself names them."""

_TORCHVISION = "https://download.pytorch.org/models"
_HUB = "https://huggingface.co"
_FILE = "model.safetensors"


def check_weights(factory: str, *, arguments: Mapping[str, Any], weights: str | None) -> None:
    """Refuse weights that have to be downloaded and cannot be.

    Importing torch and what builds a network takes seconds; this takes none. It knows the
    weights in `CHECKPOINTS` and those of timm's tags; of any other it says nothing.

    Parameters
    ----------
    factory, arguments, weights
        As `load_backbone` takes them.

    Raises
    ------
    WeightsError
        If they are not on this machine, nor can the server be reached.
    """
    architecture = str(arguments.get("architecture"))
    if factory == "dfkde.backbones.torchvision:torchvision_model":
        _check_torchvision(architecture, weights)
    if factory == "dfkde.backbones.timm:timm_model" and weights == "pretrained":
        _check_timm(architecture)


def checkpoint_error(architecture: str, weights: str, *, url: str, folder: Path) -> WeightsError:
    """Say that weights of torchvision are missing, and where they would be looked for."""
    return WeightsError(
        f"the weights {weights} of {architecture}", url=url, way_on=f"put that file into {folder}"
    )


def hub_error(architecture: str, *, url: str, cache: str) -> WeightsError:
    """Say that weights of timm are missing, and where they would be looked for."""
    return WeightsError(
        f"the weights of {architecture}",
        url=url,
        way_on=f"give that file as backbone.weights=PATH (or fill the cache {cache})",
    )


def checkpoint_folder() -> Path:
    """Return where torch keeps downloaded weights: `torch.hub.get_dir()`, without torch."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", caches / "torch"))
    return home.expanduser() / "hub" / "checkpoints"


def _check_torchvision(architecture: str, weights: str | None) -> None:
    name = CHECKPOINTS.get((architecture, str(weights)))
    if name is None:
        return
    folder, url = checkpoint_folder(), f"{_TORCHVISION}/{name}"
    if not (folder / name).exists() and not reachable(url):
        raise checkpoint_error(architecture, str(weights), url=url, folder=folder)


def _check_timm(architecture: str) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    # A name without a tag, or a repository of somebody else's, may be what timm means by it.
    ours = "models--timm--"
    cached = [path.name for path in Path(HF_HUB_CACHE).glob("models--*")]
    if "." not in architecture or f"{ours}{architecture}" in cached:
        return
    if any(not name.startswith(ours) for name in cached):
        return
    if HF_HUB_OFFLINE or not reachable(_HUB):
        url = f"{_HUB}/timm/{architecture}/resolve/main/{_FILE}"
        raise hub_error(architecture, url=url, cache=HF_HUB_CACHE)
