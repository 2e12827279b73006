"""Networks of timm, by name and tag."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
from torch import nn

from dfkde.backbones.presence import check_checkpoint, check_hub, checkpoint_error, hub_error

PRETRAINED = "pretrained"
"""The name of the weights that timm's tag stands for."""


def timm_model(architecture: str, *, weights: str | None, img_size: int | None = None) -> nn.Module:
    """Build a network of timm without pooling and classifier: it returns its last feature map.

    `architecture` is timm's name with or without a tag of its weights: `resnet18.a1_in1k`. With
    `weights="pretrained"` the tag's weights are downloaded on first use; None leaves the network to
    be filled from a state dict. `img_size` is the images' side in pixels, for vision transformers
    of a fixed input size.
    """
    _check_name(architecture)
    if weights not in (None, PRETRAINED):
        raise ValueError(f"weights must be {PRETRAINED!r} or a state dict's path, got {weights!r}")
    config: Any = timm.get_pretrained_cfg(architecture)
    if weights is not None and not (config and config.has_weights):
        raise ValueError(f"timm has no weights for {architecture!r}")
    what = f"the weights of {architecture}"
    if weights is not None and config.hf_hub_id:  # which would be asked for a minute
        check_hub(architecture, repository=config.hf_hub_id)
    elif weights is not None:
        check_checkpoint(what, url=str(config.url))
    try:
        return timm.create_model(
            architecture,
            pretrained=weights is not None,
            num_classes=0,
            global_pool="",
            img_size=img_size,
        )
    except OSError as cause:
        if config.hf_hub_id:
            raise hub_error(architecture, repository=config.hf_hub_id) from cause
        raise checkpoint_error(what, url=str(config.url)) from cause


def _check_name(architecture: str) -> None:
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"architecture must be one of timm's, got {architecture!r}; near: {near}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(f"the tag of {name} must be one of {tags}, got {tag!r}")
