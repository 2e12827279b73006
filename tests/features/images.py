"""Images to extract features of, and an extractor that needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from harness.data import NORMAL, Sample
from harness.features.extractor import Digests

PLAIN = SimpleNamespace(
    code="",
    outdated=False,
    digests=lambda shape: Digests("plain", "plain"),
    layers=("all",),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)


class PlainEngine:
    """In place of a backbone: the maps are the image on a coarse grid."""

    def __call__(self, images):
        maps = images.reshape(len(images), 3, 4, 8, 4, 8).mean((3, 5))
        return maps.mean((2, 3)), maps


def write_image(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> Sample:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return sample_of(path)


def sample_of(path: Path) -> Sample:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sample(path.parent, path.name, NORMAL, False, None, digest, None, (8, 8))
