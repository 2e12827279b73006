"""A feature extractor that is built only when an image has to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from harness.config import BackboneConfig
from harness.features.recipe import Identity

if TYPE_CHECKING:
    import torch


class LazyExtractor:
    """The feature extractor of a backbone's settings.

    Parameters
    ----------
    backbone : BackboneConfig
        The settings of the backbone.
    """

    def __init__(self, backbone: BackboneConfig) -> None:
        self.backbone = backbone

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules whose outputs are the features."""
        return self.backbone.layers

    @property
    def mean(self) -> Sequence[float]:
        """Per-channel mean of the normalisation."""
        return self.backbone.mean or self.module.mean

    @property
    def std(self) -> Sequence[float]:
        """Per-channel standard deviation of the normalisation."""
        return self.backbone.std or self.module.std

    @property
    def digest(self) -> str:
        """SHA-256 over the architecture's name and its tensors, hexadecimal."""
        return self.module.digest

    @cached_property
    def module(self) -> Any:
        """The extractor itself; the first access imports torch and reads the weights."""
        from dfkde import FeatureExtractor, load_backbone

        settings = self.backbone
        network = load_backbone(
            settings.factory, arguments=dict(settings.arguments), weights=settings.weights
        )
        return FeatureExtractor(
            network, list(settings.layers), mean=settings.mean, std=settings.std
        )


def module_of(extractor: Identity) -> torch.nn.Module:
    """Return the torch module of an extractor, built now if it is a lazy one."""
    module: Any = extractor.module if isinstance(extractor, LazyExtractor) else extractor
    return cast("torch.nn.Module", module)
