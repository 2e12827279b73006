"""A small feature extractor in torch."""

from __future__ import annotations

import hashlib

import torch
from torch.export import ExportedProgram

from dfkde.graph import capture, graph_digest
from harness.config import FeaturesConfig
from harness.features.extractor import Digests

SIZE = 32
TORCH = FeaturesConfig(engine="torch", device="cpu", workers=2)


class SmallExtractor(torch.nn.Module):
    """Convolutions with batch norms, and two layers on one grid."""

    code = ""
    outdated = False
    layers = ("stem", "body")
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = block(3, 8)
        self.body = block(8, 16)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(-0.5, 0.5, generator=generator)
        for norm in (self.stem[1], self.body[1]):
            norm.running_var += 1
        self.register_buffer("_mean", torch.tensor(self.mean).view(3, 1, 1))
        self.register_buffer("_std", torch.tensor(self.std).view(3, 1, 1))
        self.eval()

    def digests(self, shape: tuple[int, int, int, int]) -> Digests:
        tensors = self.state_dict().values()
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
        return Digests(digest, graph_digest(self.program(shape)))

    def program(self, shape: tuple[int, int, int, int]) -> ExportedProgram:
        return capture(self, shape)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.stem((images - self._mean) / self._std)
        coarse = self.body(fine)
        maps = torch.cat([torch.nn.functional.avg_pool2d(fine, 2), coarse], 1)
        return maps.mean((2, 3)), maps


def block(n_in: int, n_out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(n_out),
        torch.nn.ReLU(),
    )
