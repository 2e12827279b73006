"""What runs the backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """Computes the features of a batch; safe to call from several threads."""

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Map (n, 3, H, W) in [0, 1] to pooled (n, D) and feature maps (n, D, h, w), float32."""


class TorchEngine:
    """The extractor as it is, in torch's inference mode.

    Parameters
    ----------
    extractor : torch.nn.Module
        Maps images to pooled features and feature maps.
    """

    def __init__(self, extractor: torch.nn.Module) -> None:
        self._extractor = extractor

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute the features of one batch."""
        import torch

        with torch.inference_mode():
            pooled, maps = self._extractor(torch.from_numpy(images))
        return pooled.numpy(), maps.numpy()
