"""Torchvision's classification networks, by name and by named weights."""

from __future__ import annotations

from difflib import get_close_matches

from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from dfkde.backbones.presence import check_checkpoint, checkpoint_error


def torchvision_model(
    architecture: str, *, weights: str | None, num_classes: int | None = None
) -> nn.Module:
    """Build a torchvision network by torchvision's names: `resnet50`, `IMAGENET1K_V1`.

    Named weights are downloaded on first use; None leaves the network to be filled from a state
    dict, which may have another number of classes than ImageNet's 1000.
    """
    if architecture not in list_models():
        near = get_close_matches(architecture, list_models(), n=5) or list_models()
        raise ValueError(f"architecture must be one of torchvision's {near}, got {architecture!r}")
    names = get_model_weights(architecture).__members__
    if weights is None:
        return get_model(architecture, weights=None, num_classes=num_classes or 1000)
    if weights not in names:
        raise ValueError(f"weights of {architecture} must be one of {[*names]}, got {weights!r}")
    if num_classes is not None:
        raise ValueError(
            f"num_classes must be left out where weights have a name, got {num_classes}"
            f" with {weights}"
        )
    entry = names[weights]
    what = f"the weights {entry.name} of {architecture}"
    check_checkpoint(what, url=entry.url)
    try:
        return get_model(architecture, weights=entry)
    except OSError as cause:
        raise checkpoint_error(what, url=entry.url) from cause
