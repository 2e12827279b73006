"""Whether a backbone's weights and layers exist, checked without importing what builds it.

The libraries that build a network take seconds to import; a mistake is reported before.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TORCHVISION = "dfkde.backbones.torchvision:torchvision_model"
TIMM = "dfkde.backbones.timm:timm_model"
LITE = "dfkde.backbones.efficientnet_lite:efficientnet_lite"

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

_STAGES = [f"layer{number}" for number in (1, 2, 3, 4)]
PARTS = {
    TORCHVISION: ["conv1", "bn1", "relu", "maxpool", *_STAGES, "avgpool", "fc"],
    LITE: ["conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool", "classifier"],
}
"""The outermost modules of the networks in `CHECKPOINTS` and of EfficientNet-Lite."""

ELSEWHERE = re.compile(
    r"davit_\w+_fl|fastvit_mci|gcvit|legacy_|vit_base_mci|vitamin_|.*_quickgelu_|.*_ijepa"
)
"""How the names of timm begin whose weights are not in a repository of that very name."""

INSTALLED = "use backbone=efficientnet_lite0, whose weights are installed with this package"
"""The alternative that needs no file."""

_DOWNLOADS = "https://download.pytorch.org/models"
_SUFFIXES = {".pth", ".pt", ".bin", ".safetensors"}
# Libraries whose networks are random unless weights are asked for, and how they are asked.
_LIBRARIES = ("torchvision", "timm")
_WEIGHTS_ARGUMENTS = ("weights", "weights_backbone", "pretrained", "checkpoint_path")
# A resolver or a firewall that drops packets would otherwise keep a user waiting for minutes.
_PATIENCE = 1.3
_PORTS = {"http": 80, "https": 443}


class WeightsError(ValueError):
    """Weights are not on this machine and cannot be downloaded.

    `place` says what to do with the file at `url`, `others` which other weights would do.
    """

    def __init__(self, what: str, url: str, place: str, *others: str):
        super().__init__(what, url, place, *others)
        self.url = url

    def __str__(self) -> str:
        what, url, *advice = self.args
        return f"{what} are not on this machine and {url} cannot be fetched: {', or '.join(advice)}"

    def without_others(self) -> Self:
        """Return the error for a detector, which takes no other weights."""
        return type(self)(*self.args[:3])


def is_random(factory: str, *, arguments: Mapping[str, Any], weights: str | None) -> bool:
    """Return whether `load_backbone` builds a network of torchvision or timm without weights.

    Any factory but ours and those of the two libraries is taken to bring its own weights.
    """
    if weights is not None or factory == LITE:
        return False
    if factory.startswith("dfkde.backbones."):
        return True
    library = factory.partition(":")[0].partition(".")[0]
    return library in _LIBRARIES and not any(arguments.get(name) for name in _WEIGHTS_ARGUMENTS)


def weights_path(weights: str | None) -> Path | None:
    """Return the path of a state dict, which has a separator or a suffix; None for a name."""
    if weights is None:
        return None
    path = Path(weights).expanduser()
    return path if os.sep in weights or path.suffix in _SUFFIXES else None


def checkpoint_file(
    factory: str, *, arguments: Mapping[str, Any], weights: str | None
) -> Path | None:
    """Return where torch keeps the file of named weights, for those in `CHECKPOINTS`."""
    name = CHECKPOINTS.get((str(arguments.get("architecture")), str(weights)))
    return checkpoint_folder() / name if factory == TORCHVISION and name else None


def check_weights(factory: str, *, arguments: Mapping[str, Any], weights: str | None) -> None:
    """Raise a `WeightsError` for weights that are not here and whose server cannot be reached.

    It knows the weights in `CHECKPOINTS` and most of timm's, and accepts all others.
    """
    architecture = str(arguments.get("architecture"))
    path = checkpoint_file(factory, arguments=arguments, weights=weights)
    if path is not None:
        what = f"the weights {weights} of {architecture}"
        check_checkpoint(what, url=f"{_DOWNLOADS}/{path.name}")
    elif factory == TIMM and weights == "pretrained" and not ELSEWHERE.match(architecture):
        # Which tag a name without one stands for is known to timm alone.
        name = architecture if "." in architecture else f"{architecture}.TAG"
        check_hub(architecture, repository=f"timm/{name}")


def check_checkpoint(what: str, *, url: str) -> None:
    """Raise the error for a file that torch has not downloaded, where it cannot be asked for."""
    if not (checkpoint_folder() / Path(url).name).exists() and not reachable(url):
        raise checkpoint_error(what, url=url)


def checkpoint_error(what: str, *, url: str) -> WeightsError:
    """Return the error for a download into torch's folder that fails."""
    return WeightsError(what, url, f"put that file into {checkpoint_folder()}", INSTALLED)


def check_layers(factory: str, layers: Sequence[str], *, arguments: Mapping[str, Any]) -> None:
    """Refuse layers whose outermost module the backbone lacks, for the networks in `PARTS`."""
    known = {architecture for architecture, _ in CHECKPOINTS}
    if factory not in PARTS or (
        factory == TORCHVISION and arguments.get("architecture") not in known
    ):
        return
    choices = [*PARTS[factory], "output"]
    for layer in layers:
        if layer.partition(".")[0] not in choices:
            raise ValueError(
                f"layers must be modules of the backbone, {choices} and their parts, got {layer!r}"
            )


def checkpoint_folder() -> Path:
    """Return where torch keeps downloaded weights: `torch.hub.get_dir()`, without torch."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", caches / "torch"))
    return home.expanduser() / "hub" / "checkpoints"


def check_hub(architecture: str, *, repository: str) -> None:
    """Raise the error for a repository of the hub that is not here, where it cannot be asked."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE

    name = repository.partition("/")[2].replace("TAG", "*")
    is_here = any(Path(HF_HUB_CACHE).glob(f"models--*--{name}/snapshots/*/*"))
    if not is_here and (HF_HUB_OFFLINE or not reachable(ENDPOINT)):
        raise hub_error(architecture, repository=repository)


def hub_error(architecture: str, *, repository: str) -> WeightsError:
    """Return the error for a file of the Hugging Face hub, or of $HF_ENDPOINT, that is missing."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    folder = f"models--{repository.replace('/', '--')}"
    return WeightsError(
        f"the weights of {architecture}",
        f"{ENDPOINT}/{repository}/resolve/main/model.safetensors",
        f"copy the folder {folder} of a machine that has them into {HF_HUB_CACHE}",
        "give that file as backbone.weights=PATH",
        INSTALLED,
    )


def reachable(url: str) -> bool:
    """Return within two seconds whether the server of a URL, or its proxy, takes connections."""
    answers: list[bool] = []

    def connect() -> None:
        with suppress(OSError, ValueError):
            socket.create_connection(_server(url), timeout=_PATIENCE).close()
            answers.append(True)

    # In a thread, for a time limit does not bound the look-up of the host's name.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answers)


def _server(url: str) -> tuple[str, int]:
    """Return the host and port to connect to for a URL: its own, or its proxy's."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
