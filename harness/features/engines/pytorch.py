"""Torch: batch norms fused, channels last, on the CPU or a GPU."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.passes import move_to_device_pass

from harness.features.engines.fusion import fuse_batch_norms
from harness.features.extractor import Extractor
from harness.features.recipe import Recipe


class TorchEngine:
    """Runs the captured backbone in torch's inference mode.

    Parameters
    ----------
    extractor : Extractor
        Maps images to pooled features and feature maps.
    recipe : Recipe
        The device, the precision and the shape of a batch.
    """

    def __init__(self, extractor: Extractor, recipe: Recipe) -> None:
        program = extractor.program(recipe.shape)
        self._device = torch.device(recipe.device)
        if self._device.type == "cuda":
            program = move_to_device_pass(program, self._device)
        graph = fuse_batch_norms(program.module())
        self._graph = graph.to(memory_format=torch.channels_last)
        self._autocast = recipe.precision == "bf16"
        # The CPU's threads compute side by side; a GPU computes one batch at a time.
        self._turn: AbstractContextManager = (
            threading.Lock() if self._device.type == "cuda" else nullcontext()
        )

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute a batch, as `Engine` says."""
        _compute_alone()
        batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        with self._turn, torch.inference_mode(), self._exactly():
            pooled, feature_maps = self._graph(batch.to(self._device))
            return pooled.float().cpu().numpy(), feature_maps.float().cpu().numpy()

    def _exactly(self) -> AbstractContextManager:
        if self._autocast:
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        if self._device.type == "cpu":  # cuDNN's flags are of the process, not of the thread
            return nullcontext()
        # TensorFloat-32, cuDNN's default for convolutions, keeps 10 bits of the mantissa.
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )


def _compute_alone() -> None:
    """Let the calling thread compute by itself: sums depend on the number of threads."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
