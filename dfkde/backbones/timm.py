"""Networks of timm, by name and tag."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache
from torch import nn

from dfkde.backbones.presence import (
    HUB_FILE,
    WeightsError,
    checkpoint_error,
    checkpoint_folder,
    hub_error,
    hub_reachable,
    reachable,
)

PRETRAINED = "pretrained"
"""The name of the weights that timm's tag stands for."""


def timm_model(architecture: str, *, weights: str | None, img_size: int | None = None) -> nn.Module:
    """Build a network of timm without pooling and classifier: it returns its last feature map.

    Parameters
    ----------
    architecture : str
        As timm names it, with or without a tag of its weights: `resnet18.a1_in1k`.
    weights : str, optional
        `pretrained` for the tag's weights, downloaded on first use. None leaves the network to
        be filled from a state dict.
    img_size : int, optional
        For vision transformers of a fixed input size: the images' side in pixels.

    Raises
    ------
    ValueError
        If timm has no such network, tag or weights.
    WeightsError
        If the weights are not on this machine and cannot be downloaded.
    """
    _check_name(architecture)
    if weights not in (None, PRETRAINED):
        raise ValueError(f"weights must be {PRETRAINED!r} or a state dict's path, got {weights!r}")
    with _downloading(architecture, needed=weights is not None):
        return timm.create_model(
            architecture,
            pretrained=weights is not None,
            num_classes=0,
            global_pool="",
            img_size=img_size,
        )


def _check_name(architecture: str) -> None:
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"architecture must be one of timm's, got {architecture!r}; near: {near}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(f"the tag of {name} must be one of {tags}, got {tag!r}")


@contextmanager
def _downloading(architecture: str, *, needed: bool) -> Iterator[None]:
    """Fail early, and in one line, where weights are needed and cannot be had."""
    if not needed:
        yield
        return
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no weights for {architecture!r}")
    error, can_be_had = (_of_hub if config.hf_hub_id else _of_url)(architecture, config)
    if not can_be_had:
        raise error
    try:
        yield
    except OSError as cause:
        raise error from cause


def _of_hub(architecture: str, config: Any) -> tuple[WeightsError, bool]:
    """Return what to say if weights of the hub cannot be had, and whether they can."""
    cached = isinstance(try_to_load_from_cache(config.hf_hub_id, HUB_FILE), str)
    error = hub_error(architecture, repository=config.hf_hub_id)
    return error, cached or hub_reachable()


def _of_url(architecture: str, config: Any) -> tuple[WeightsError, bool]:
    """Return the same for weights that torch downloads into its own folder."""
    here = (checkpoint_folder() / Path(config.url).name).exists()
    error = checkpoint_error(f"the weights of {architecture}", url=config.url)
    return error, here or reachable(config.url)
