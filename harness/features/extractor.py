"""A feature extractor that is built only when an image has to be computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dfkde.backbones.presence import check_layers, check_weights
from harness.code import factory_digest
from harness.config import BackboneConfig
from harness.features.backbone_digests import DigestCache, Digests, Shape

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from dfkde import FeatureExtractor


class Extractor(Protocol):
    """What features are extracted with."""

    outdated: bool
    """Whether the network turned out to be another one than its cached digests said."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules whose outputs are the features."""

    @property
    def mean(self) -> Any:
        """Mean of the normalisation, one value for each channel."""

    @property
    def std(self) -> Any:
        """Standard deviation of the normalisation, one value for each channel."""

    @property
    def code(self) -> str:
        """Digest of the code that builds the network; empty for this project's own factories."""

    def digests(self, shape: Shape) -> Digests:
        """Return which network it is, for batches of this shape."""

    def program(self, shape: Shape) -> ExportedProgram:
        """Return what it computes for batches of this shape, as a graph."""


class LazyExtractor:
    """The feature extractor of a backbone's settings.

    Parameters
    ----------
    backbone : BackboneConfig
        The settings of the backbone.
    cache : path-like, optional
        The feature cache, which keeps the network's digests too, so that a later process with all
        features in it needs no torch.
    random_seed : int, optional
        Draws random weights, where the backbone has no others; None refuses them.
    build : callable, optional
        Builds the extractor in place of the settings, which describe it.

    Attributes
    ----------
    outdated : bool
        Whether the network turned out to be another one than its cached digests said.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        *,
        cache: str | None = None,
        random_seed: int | None = None,
        build: Callable[[], FeatureExtractor] | None = None,
    ) -> None:
        self.backbone = backbone
        self.outdated = False
        self._cache = DigestCache(backbone, cache)
        self._random_seed = random_seed
        self._build = build or self._from_settings
        self._cached: dict[Shape, Digests] = {}

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
    def code(self) -> str:
        """Digest of the code that builds the network; empty for this project's own factories.

        A graph names operators; what those do that the backbone registers is in its code.
        """
        factory = self.backbone.factory
        return "" if factory.startswith("dfkde.") else factory_digest(factory)

    def digests(self, shape: Shape) -> Digests:
        """Return which network it is, from the cache or from the network itself.

        Parameters
        ----------
        shape : tuple of int
            Of a batch, (n, 3, H, W).

        Raises
        ------
        ValueError
            If the network has random weights and may not, or torch cannot record it.
        """
        if shape in self._cached:
            return self._cached[shape]
        kept = self._cache.find(shape)
        if kept is not None and kept.current:
            self._cached[shape] = kept.digests
            return kept.digests
        computed = self._computed(shape)
        if kept is not None:
            self._compare(kept.digests, computed, shape=shape)
        self._cache.keep(shape, computed)
        return computed

    def program(self, shape: Shape) -> ExportedProgram:
        """Return what the extractor computes, as a graph; its digests are checked first.

        Parameters
        ----------
        shape : tuple of int
            Of a batch, (n, 3, H, W).

        Raises
        ------
        ValueError
            If the network is not the one that the cached digests are of; they are removed, so
            that the same job computes them again.
        """
        cached = self._cached.get(shape)
        if cached is not None:
            self._compare(cached, self._computed(shape), shape=shape)
        return self.module.program(shape)

    def check(self, shape: Shape | None) -> None:
        """Refuse, without importing torch, layers and weights that cannot be had.

        Where the digests are cached the weights may not be needed at all: all is well.

        Parameters
        ----------
        shape : tuple of int, optional
            Of the batches of this machine; None where another machine computes, and needs the
            weights.

        Raises
        ------
        ValueError
            If the backbone has no such layer, or random weights that are not allowed.
        WeightsError
            In one line: the file's address, where to put it, and another way on.
        """
        settings = self.backbone
        check_layers(settings.factory, settings.layers, arguments=settings.arguments)
        self._check_random()
        if shape is not None and self._cache.find(shape) is None:
            self._check_weights()

    @cached_property
    def module(self) -> FeatureExtractor:
        """The extractor itself; the first access imports torch and reads the weights."""
        return self._build()

    def _from_settings(self) -> FeatureExtractor:
        self._check_random()
        self._check_weights()
        from dfkde import FeatureExtractor, load_backbone

        settings = self.backbone
        network = load_backbone(
            settings.factory,
            arguments=dict(settings.arguments),
            weights=settings.weights,
            seed=self._random_seed if settings.random else None,
        )
        return FeatureExtractor(
            network, list(settings.layers), mean=settings.mean, std=settings.std
        )

    def _computed(self, shape: Shape) -> Digests:
        parts = {
            "factory": _without_folder(self.backbone.factory),
            "arguments": self.backbone.arguments,
            "graph": self.module.graph_digest(shape),
        }
        text = json.dumps(parts, sort_keys=True, default=repr)
        return Digests(self.module.digest, hashlib.sha256(text.encode()).hexdigest())

    def _compare(self, cached: Digests, found: Digests, *, shape: Shape) -> None:
        """Refuse a network that is not the one whose digests were cached."""
        for name, what in (("weights", "its weights"), ("network", "what its forward computes")):
            old, new = getattr(cached, name), getattr(found, name)
            if old != new:
                self.outdated = True
                raise ValueError(
                    f"the backbone {self.backbone.name} has changed since its digests were cached:"
                    f" {what} had SHA-256 {old[:12]}, now {new[:12]}; {self._cache.forget(shape)}"
                )

    def _check_random(self) -> None:
        settings = self.backbone
        if settings.random and self._random_seed is None:
            raise ValueError(
                f"backbone.weights must not be null for {settings.name}, whose weights would be"
                f" random, as {settings.factory} brings none: name them, give the path of a state"
                " dict, or set allow_random_weights=true"
            )

    def _check_weights(self) -> None:
        settings = self.backbone
        check_weights(settings.factory, arguments=settings.arguments, weights=settings.weights)


def _without_folder(factory: str) -> str:
    """Name a factory in a file by the file's name: no path has a part in an identity."""
    source, colon, name = factory.rpartition(":")
    return f"{Path(source).name}{colon}{name}" if source.endswith(".py") else factory
