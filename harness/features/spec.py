"""What determines a feature besides the image: the key of the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config import FeaturesConfig
from harness.features.extractor import Extractor
from harness.features.inputs import RESIZES, read_pixels, scale
from harness.features.settings import (
    batch_of,
    check_center_crop,
    input_shape,
    resolve_device,
    resolve_engine,
    resolve_precision,
)
from harness.provenance import modules_digest

CODE = (
    "harness.data.images",
    "harness.features.engines",
    "harness.features.entries",
    "harness.features.extraction",
    "harness.features.inputs",
    "harness.features.settings",
    "harness.features.torch_engine",
)
"""The modules that turn an image file and a network into features."""

NETWORK = ("torch", "torchvision", "timm")
"""The libraries that decide which graph a network is recorded as."""
# What translates it for engines other than torch.
_TRANSLATION = ("onnx", "onnxscript")


@dataclass(frozen=True)
class Recipe:
    """Everything but the image that determines the numbers of a feature.

    The versions of all libraries between the file and the feature belong to it: an upgrade may
    change last digits, and features of two versions must not meet in one job. So does `code`, the
    digests of the project's own modules there and of a backbone's of one's own, and the number of
    images in a batch, for it decides how an engine sums.
    """

    weights_digest: str
    network_digest: str
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize: str
    engine: str
    precision: str
    device: str
    batch: int
    versions: tuple[str, ...]
    code: str
    center_crop: int | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of what the backbone is given at once: (batch, 3, H, W)."""
        side = self.image_size if self.center_crop is None else self.center_crop
        return self.batch, 3, side, side

    def read(self, path: Path, digest: str | None = None) -> NDArray[np.float32]:
        """Read an image file as the backbone sees it, shape (3, H, W); see `read_input`."""
        return scale(self.read_pixels(path, digest))

    def read_pixels(self, path: Path, digest: str | None = None) -> NDArray:
        """Read an image file but for the last step, shape (3, H, W); see `read_pixels`."""
        return read_pixels(
            path,
            digest,
            image_size=self.image_size,
            resize=self.resize,
            center_crop=self.center_crop,
        )

    @property
    def key(self) -> str:
        """SHA-256 over all fields, hexadecimal, shortened to 128 bits."""
        return _key(self)


@dataclass(frozen=True)
class Graph:
    """Everything that determines a translated backbone: nothing of how it is fed or computed."""

    weights_digest: str
    network_digest: str
    shape: tuple[int, ...]
    versions: tuple[str, ...]
    code: str

    @property
    def key(self) -> str:
        """As `Recipe.key`."""
        return _key(self)


def graph_of(recipe: Recipe) -> Graph:
    """Return what the translation of a recipe's backbone depends on."""
    return Graph(
        weights_digest=recipe.weights_digest,
        network_digest=recipe.network_digest,
        shape=recipe.shape,
        versions=_versions(*NETWORK, *_TRANSLATION),
        code=recipe.code,
    )


def recipe_of(
    extractor: Extractor,
    *,
    image_size: int,
    settings: FeaturesConfig,
    center_crop: int | None = None,
) -> Recipe:
    """Resolve every `auto` and return the recipe.

    Raises
    ------
    ValueError
        If a setting is none of its choices or the machine cannot honour it.
    """
    check_center_crop(center_crop, image_size=image_size)
    if settings.resize not in RESIZES:
        raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {settings.resize!r}")
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision)
    engine = resolve_engine(settings.engine, device=device, precision=precision)
    digests = extractor.digests(
        input_shape(settings, image_size=image_size, center_crop=center_crop)
    )
    return Recipe(
        weights_digest=digests.weights,
        network_digest=digests.network,
        layers=tuple(extractor.layers),
        mean=_channels(extractor.mean),
        std=_channels(extractor.std),
        image_size=image_size,
        resize=settings.resize,
        engine=engine,
        precision=precision,
        device=device,
        batch=batch_of(device, engine),
        versions=_versions(*_libraries(engine), *_decoders()),
        code=f"{modules_digest(CODE)} {extractor.code}".strip(),
        center_crop=center_crop,
    )


def _key(described: Recipe | Graph) -> str:
    text = json.dumps([type(described).__name__, asdict(described)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _libraries(engine: str) -> tuple[str, ...]:
    """Name what stands between the network's code and the numbers that an engine gives."""
    return NETWORK if engine == "torch" else (*NETWORK, *_TRANSLATION, engine)


def _decoders() -> tuple[str, ...]:
    return ("pillow", "imagecodecs") if find_spec("imagecodecs") else ("pillow",)


def _versions(*packages: str) -> tuple[str, ...]:
    return tuple(map(library, packages))


def library(name: str) -> str:
    """Return the name of a library with its version, as recipes hold it: `torch 2.6.0`."""
    return f"{name} {version(name)}"


def _channels(values: Any) -> tuple[float, ...]:
    """Return one number per channel, whether they come as a list or as a tensor."""
    return tuple(np.asarray(values, dtype=np.float32).ravel().tolist())
