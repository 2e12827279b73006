"""What determines a feature besides the image: the key of the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Protocol

from harness.config import FeaturesConfig
from harness.features.choice import resolve_device, resolve_engine, resolve_precision
from harness.features.inputs import RESIZES

_VERSION = 1
"""Raised whenever the code turns the same image into other features."""


class Identity(Protocol):
    """What a feature extractor tells about itself without running."""

    @property
    def digest(self) -> str:
        """SHA-256 over the architecture's name and its tensors, hexadecimal."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules whose outputs are the features."""

    @property
    def mean(self) -> Sequence[float]:
        """Per-channel mean of the normalisation."""

    @property
    def std(self) -> Sequence[float]:
        """Per-channel standard deviation of the normalisation."""


@dataclass(frozen=True)
class Recipe:
    """Everything but the image that determines the numbers of a feature.

    The versions of the engine and of Pillow belong to it: an upgrade may change last digits, and
    features of two versions must not meet in one job.
    """

    weights_digest: str
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize: str
    engine: str
    precision: str
    device: str
    versions: tuple[str, ...]

    @property
    def key(self) -> str:
        """SHA-256 over all fields, hexadecimal, shortened to 128 bits."""
        text = json.dumps([_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def recipe_of(extractor: Identity, *, image_size: int, settings: FeaturesConfig) -> Recipe:
    """Resolve every `auto` and return the recipe.

    Raises
    ------
    ValueError
        If a setting is none of its choices or the machine cannot honour it.
    """
    if settings.resize not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {settings.resize!r}")
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision)
    engine = resolve_engine(settings.engine, device=device, precision=precision)
    return Recipe(
        weights_digest=extractor.digest,
        layers=tuple(extractor.layers),
        mean=tuple(map(float, extractor.mean)),
        std=tuple(map(float, extractor.std)),
        image_size=image_size,
        resize=settings.resize,
        engine=engine,
        precision=precision,
        device=device,
        versions=tuple(f"{name} {version(name)}" for name in (engine, "pillow")),
    )
