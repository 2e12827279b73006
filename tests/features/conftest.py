from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.split import NORMAL, Sample


class SmallExtractor(torch.nn.Module):
    """A stand-in with convolution, batch norm and two layers on one grid."""

    layers = ("stem", "body")
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
        )
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
        )
        for norm in (self.stem[1], self.body[1]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.register_buffer("_mean", torch.tensor(self.mean).view(3, 1, 1))
        self.register_buffer("_std", torch.tensor(self.std).view(3, 1, 1))
        self.eval()

    @property
    def digest(self) -> str:
        tensors = self.state_dict().values()
        return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.stem((images - self._mean) / self._std)
        coarse = self.body(fine)
        maps = torch.cat([torch.nn.functional.avg_pool2d(fine, 2), coarse], 1)
        return maps.mean((2, 3)), maps


def write_image(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> Sample:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sample(path, path.name, NORMAL, None, digest, (8, 8))


@pytest.fixture
def extractor() -> SmallExtractor:
    return SmallExtractor()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    folder = tmp_path / "images"
    folder.mkdir()
    return [write_image(folder / f"{k:03}.png", k) for k in range(11)]
