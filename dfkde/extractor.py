"""Features of images from the inner layers of a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn


class FeatureExtractor(nn.Module):
    """A backbone that returns the outputs of some of its layers, pooled.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone; set to evaluation mode and frozen.
    layers : sequence of str
        Names of its modules (as in `named_modules`) whose outputs are feature maps
        (n, channels, h, w). The coarsest sets the grid; the others are average-pooled to it.
    mean, std : sequence of float
        Per-channel normalisation of RGB in [0, 1].

    Raises
    ------
    ValueError
        If a layer is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.layers = tuple(layers)
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1))
        self._outputs: dict[str, Tensor] = {}
        modules = dict(module.named_modules())
        for layer in self.layers:
            if layer not in modules:
                raise ValueError(_unknown_layer(layer, modules))
            modules[layer].register_forward_hook(self._keep(layer))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract the features of a batch.

        Parameters
        ----------
        images : tensor of shape (n, 3, H, W)
            float32 RGB in [0, 1].

        Returns
        -------
        pooled : tensor of shape (n, D)
            The mean of the feature maps over their positions; D is the layers' channels in sum.
        feature_maps : tensor of shape (n, D, h, w)
            The layers' outputs on the coarsest grid, concatenated in the order of `layers`.
        """
        self.module((images - self.mean) / self.std)
        outputs = [self._outputs.pop(layer) for layer in self.layers]
        h, w = min((tuple(output.shape[-2:]) for output in outputs), key=lambda hw: hw[0] * hw[1])
        feature_maps = torch.cat([_on_grid(output, (h, w)) for output in outputs], dim=1)
        return feature_maps.mean(dim=(2, 3)), feature_maps

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the architecture and the backbone's tensors."""
        digest = hashlib.sha256()
        for name, module in self.module.named_modules():
            digest.update(f"{name}:{type(module).__name__}({module.extra_repr()})\n".encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name}:{tensor.dtype}{list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _keep(self, layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self._outputs[layer] = output

        return hook


def _on_grid(output: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(output.shape[-2:]) == grid:
        return output
    return nn.functional.adaptive_avg_pool2d(output, grid)


def _unknown_layer(layer: str, modules: dict[str, nn.Module]) -> str:
    top = [name for name in modules if name and "." not in name]
    nearest = get_close_matches(layer, [name for name in modules if name], n=3)
    hint = f"; did you mean {nearest}?" if nearest else ""
    return f"layers: no module {layer!r} in the backbone, which has {top} and their parts{hint}"
