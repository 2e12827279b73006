"""Torchvision's classification networks, by name and by named weights."""

from __future__ import annotations

from torch import nn
from torchvision.models import get_model


def torchvision_model(architecture: str, *, weights: str | None = None) -> nn.Module:
    """Build a torchvision network.

    Parameters
    ----------
    architecture : str
        As torchvision names it: `resnet50`.
    weights : str, optional
        As torchvision names them: `IMAGENET1K_V1`; downloaded on first use. None for random ones.
    """
    return get_model(architecture, weights=weights)
