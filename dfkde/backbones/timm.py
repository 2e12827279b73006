"""Networks of timm, by name and tag."""

from __future__ import annotations

from difflib import get_close_matches

import timm
from huggingface_hub import try_to_load_from_cache
from torch import nn

from dfkde.backbones.presence import (
    HUB_FILE,
    WeightsError,
    check_checkpoint,
    hub_error,
    hub_reachable,
)

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
    error = None if weights is None else _check_weights(architecture)
    try:
        return timm.create_model(
            architecture,
            pretrained=weights is not None,
            num_classes=0,
            global_pool="",
            img_size=img_size,
        )
    except OSError as cause:
        if error is None:
            raise
        raise error from cause


def _check_name(architecture: str) -> None:
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"architecture must be one of timm's, got {architecture!r}; near: {near}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(f"the tag of {name} must be one of {tags}, got {tag!r}")


def _check_weights(architecture: str) -> WeightsError:
    """Return the error for a download that fails; raise it where there can be none."""
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no weights for {architecture!r}")
    if not config.hf_hub_id:
        return check_checkpoint(f"the weights of {architecture}", url=str(config.url))
    error = hub_error(architecture, repository=config.hf_hub_id)
    cached = isinstance(try_to_load_from_cache(config.hf_hub_id, HUB_FILE), str)
    if not cached and not hub_reachable():
        raise error
    return error
