"""A feature extractor that is built only when an image has to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from dfkde.backbones.presence import check_layers, check_weights
from harness.config import BackboneConfig
from harness.features.memo import is_remembered, remembered_digest

if TYPE_CHECKING:
    import torch


class Extractor(Protocol):
    """What a feature extractor tells about itself without running."""

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the tree of modules, their settings and tensors."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules whose outputs are the features."""

    @property
    def mean(self) -> Any:
        """Mean of the normalisation, one value for each channel."""

    @property
    def std(self) -> Any:
        """Standard deviation of the normalisation, one value for each channel."""


class LazyExtractor:
    """The feature extractor of a backbone's settings.

    Parameters
    ----------
    backbone : BackboneConfig
        The settings of the backbone.
    memory : path-like, optional
        Folder where the digest of the weights is remembered, so that a later process with all
        features in the cache needs no torch.
    """

    def __init__(self, backbone: BackboneConfig, *, memory: str | None = None) -> None:
        self.backbone = backbone
        self._memory = memory

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

    @cached_property
    def digest(self) -> str:
        """As `FeatureExtractor.digest`; from the memory, where it is remembered."""
        return remembered_digest(self.backbone, self._memory, compute=lambda: self.module.digest)

    def check(self, *, weights: bool = True) -> None:
        """Refuse, without importing torch, layers and weights that cannot be had.

        Where the digest is remembered the weights may not be needed at all: all is well.

        Parameters
        ----------
        weights : bool
            Whether the weights matter, as they do not where another machine needs them.

        Raises
        ------
        ValueError
            If the backbone has no such layer; the message lists the choices.
        WeightsError
            In one line: the file's address, where to put it, and another way on.
        """
        settings = self.backbone
        check_layers(settings.factory, settings.layers, arguments=settings.arguments)
        if weights and not is_remembered(settings, self._memory):
            self._check_weights()

    @cached_property
    def module(self) -> Any:
        """The extractor itself; the first access imports torch and reads the weights."""
        self._check_weights()
        from dfkde import FeatureExtractor, load_backbone

        settings = self.backbone
        network = load_backbone(
            settings.factory, arguments=dict(settings.arguments), weights=settings.weights
        )
        return FeatureExtractor(
            network, list(settings.layers), mean=settings.mean, std=settings.std
        )

    def _check_weights(self) -> None:
        settings = self.backbone
        check_weights(settings.factory, arguments=settings.arguments, weights=settings.weights)


def module_of(extractor: Extractor) -> torch.nn.Module:
    """Return the torch module of an extractor, built now if it is a lazy one."""
    module: Any = extractor.module if isinstance(extractor, LazyExtractor) else extractor
    return cast("torch.nn.Module", module)
