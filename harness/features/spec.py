"""What determines a feature besides the image: the key of the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config import FeaturesConfig
from harness.data.images import USUAL, Decoding
from harness.features.extractor import LazyExtractor
from harness.features.inputs import read_input
from harness.features.settings import check_features, input_shape, resolve
from harness.provenance import modules_digest

CODE = (
    "harness.data.images",
    "harness.features.engines",
    "harness.features.feature_cache",
    "harness.features.inputs",
    "harness.features.reader",
    "harness.features.settings",
    "harness.features.torch_engine",
)
"""The modules that turn an image file and a network into features."""

NETWORK = ("torch", "torchvision", "timm")
"""The libraries that decide which graph a network is recorded as."""
# What translates it for engines other than torch.
_TRANSLATION = ("onnx", "onnxscript")


@dataclass(frozen=True)
class ExtractionSpec:
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
    decoding: Decoding = USUAL

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of what the backbone is given at once: (batch, 3, H, W)."""
        side = self.image_size if self.center_crop is None else self.center_crop
        return self.batch, 3, side, side

    @property
    def key(self) -> str:
        """SHA-256 over all fields, hexadecimal, shortened to 128 bits."""
        text = json.dumps([type(self).__name__, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def read(self, path: Path, digest: str | None = None) -> NDArray[np.float32]:
        """Read an image file as the backbone sees it, shape (3, H, W); see `read_input`."""
        return read_input(
            path,
            digest,
            image_size=self.image_size,
            resize=self.resize,
            center_crop=self.center_crop,
            decoding=self.decoding,
        )


def extraction_spec(
    extractor: LazyExtractor,
    *,
    image_size: int,
    settings: FeaturesConfig,
    center_crop: int | None = None,
    decoding: Decoding = USUAL,
) -> ExtractionSpec:
    """Resolve every `auto`; `ValueError` if the machine cannot honour a setting."""
    check_features(settings, image_size=image_size, center_crop=center_crop)
    engine, precision, device = resolve(settings)
    shape = input_shape(settings, image_size=image_size, center_crop=center_crop)
    digests = extractor.digests(shape)
    libraries = NETWORK if engine == "torch" else (*NETWORK, *_TRANSLATION, engine)
    decoders = ("pillow", "imagecodecs") if find_spec("imagecodecs") else ("pillow",)
    return ExtractionSpec(
        weights_digest=digests.weights,
        network_digest=digests.network,
        layers=tuple(extractor.layers),
        mean=tuple(np.asarray(extractor.mean, np.float32).tolist()),
        std=tuple(np.asarray(extractor.std, np.float32).tolist()),
        image_size=image_size,
        resize=settings.resize,
        engine=engine,
        precision=precision,
        device=device,
        batch=shape[0],
        versions=tuple(map(library, (*libraries, *decoders))),
        code=f"{modules_digest(CODE)} {extractor.code}".strip(),
        center_crop=center_crop,
        decoding=decoding,
    )


def library(name: str) -> str:
    """Return the name of a library with its version: `torch 2.6.0`."""
    return f"{name} {version(name)}"
