"""Features of images from the inner layers of a backbone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dfkde.graph import capture, graph_digest

OUTPUT = "output"
"""The layer name for what the backbone itself returns."""

# Layers that take and give (n, channels, h, w) and nothing else.
_CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)


class FeatureExtractor(nn.Module):
    """A backbone that returns the outputs of some of its layers, pooled.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone; set to evaluation mode and frozen.
    layers : sequence of str
        Names of its modules, as in `named_modules`, or `output` for what the backbone returns.
        All are average-pooled to the resolution of the coarsest.
    mean, std : sequence of float, optional
        Per-channel normalisation of RGB in [0, 1]. By default the backbone's own, from its
        attribute `pretrained_cfg`, which the networks of timm have.
    maps_of : sequence of str
        Further modules, by name: the output of each is returned by itself, as it is.

    Raises
    ------
    ValueError
        If a layer is unknown, or the backbone does not know its normalisation.

    Examples
    --------
    >>> import torch
    >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.AvgPool2d(4))
    >>> extractor = FeatureExtractor(backbone, ["0", "1"], mean=[0.5] * 3, std=[0.5] * 3)
    >>> pooled, feature_maps = extractor(torch.rand(2, 3, 8, 8))
    >>> tuple(pooled.shape), tuple(feature_maps.shape)
    ((2, 10), (2, 10, 2, 2))
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        maps_of: Sequence[str] = (),
    ):
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.layers = _known_layers(module, layers)
        self.maps_of = _known_layers(module, maps_of) if maps_of else ()
        self.mean = _channels(module, "mean", mean)
        self.std = _channels(module, "std", std)
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1))
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1))
        self._outputs: dict[str, object] = {}
        self._program: tuple[tuple[int, ...], ExportedProgram] | None = None
        for layer in dict.fromkeys((*self.layers, *self.maps_of)):
            part = module if layer == OUTPUT else module.get_submodule(layer)
            part.register_forward_hook(self._keep(layer))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
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
            The layers' outputs at the coarsest resolution, concatenated in the order of `layers`.
        *maps : tensors of shape (n, channels, h, w)
            The outputs of the layers in `maps_of`, each of its own shape.

        Raises
        ------
        ValueError
            If a layer has no positions, or the backbone has it and does not run it.
        """
        self.module((images - self._mean) / self._std)
        size = (images.shape[2], images.shape[3])
        outputs = dict(self._outputs)
        self._outputs.clear()
        maps = [self._feature_map(layer, outputs, size) for layer in self.layers]
        own = [self._feature_map(layer, outputs, size) for layer in self.maps_of]
        h, w = min((one.shape[2:] for one in maps), key=math.prod)
        feature_maps = torch.cat([_pooled_to(one, (h, w)) for one in maps], dim=1)
        return feature_maps.mean(dim=(2, 3)), feature_maps, *own

    def program(self, shape: tuple[int, ...]) -> ExportedProgram:
        """Return the extractor as a graph for batches of this shape (n, 3, H, W).

        It is recorded once; only the shape asked for last is kept. A network that torch cannot
        record is a ValueError.
        """
        if self._program is None or self._program[0] != shape:
            self._program = shape, capture(self, shape)
        return self._program[1]

    def graph_digest(self, shape: tuple[int, ...]) -> str:
        """SHA-256, hexadecimal, over what `forward` computes; see `dfkde.graph.graph_digest`."""
        return graph_digest(self.program(shape))

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the backbone's architecture and tensors.

        The architecture is the tree of its modules with their settings, for two networks may
        have equal tensors and differ in a stride. What `forward` does with them is in
        `graph_digest`.
        """
        digest = hashlib.sha256()
        for name, module in self.module.named_modules():
            digest.update(f"{name}:{type(module).__name__}({module.extra_repr()})\n".encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name}:{tensor.dtype}{list(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _keep(self, layer: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            # A copy, for the next layer may be an activation that works in place.
            self._outputs[layer] = output.clone() if isinstance(output, Tensor) else output

        return hook

    def _feature_map(self, layer: str, outputs: dict[str, object], size: tuple[int, int]) -> Tensor:
        """Return a layer's output for images of this size in the form (n, channels, h, w)."""
        if layer not in outputs:
            raise ValueError(f"layers must be modules that the backbone runs, got {layer!r}")
        output = outputs[layer]
        if isinstance(output, Tensor) and output.ndim == 3:
            output = _unfolded(output, getattr(self.module, "num_prefix_tokens", 0))
        if not isinstance(output, Tensor) or output.ndim != 4:
            form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer {layer!r} must give a feature map (n, channels, h, w), got {form}"
            )
        return output.permute(0, 3, 1, 2) if self._channels_last(layer, output, size) else output

    def _channels_last(self, layer: str, output: Tensor, size: tuple[int, int]) -> bool:
        """Return whether channels are the last axis, as in some layers of some transformers."""
        if getattr(self.module, "output_fmt", "NCHW") != "NHWC":
            return False
        if layer != OUTPUT and isinstance(self.module.get_submodule(layer), _CHANNELS_FIRST):
            return False
        # The positions have the proportions of the image: which two axes have them?
        _, a, b, c = output.shape
        return a * size[1] == b * size[0] or b * size[1] != c * size[0]


def _unfolded(tokens: Tensor, n_prefix: int) -> Tensor:
    """Lay the tokens (n, length, channels) of a vision transformer out as a square."""
    patches = tokens[:, n_prefix:].transpose(1, 2)
    side = math.isqrt(patches.shape[2])
    return patches.unflatten(2, (side, side)) if side**2 == patches.shape[2] else tokens


def _pooled_to(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    if feature_map.shape[2:] == size:
        return feature_map
    return nn.functional.adaptive_avg_pool2d(feature_map, size)


def _channels(module: nn.Module, name: str, values: Sequence[float] | None) -> tuple[float, ...]:
    if values is None:
        values = getattr(module, "pretrained_cfg", {}).get(name)
    if values is None:
        raise ValueError(f"{name} must be given, for the backbone does not say its own")
    if len(values) != 3:
        raise ValueError(f"{name} must hold 3 numbers, one per channel, got {list(values)}")
    return tuple(map(float, values))


def _known_layers(module: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    known = [name for name, _ in module.named_modules() if name]
    for layer in layers:
        if layer != OUTPUT and layer not in known:
            top = [name for name in known if "." not in name]
            near = get_close_matches(layer, known, n=3)
            hint = f"; near {layer!r}: {near}" if near else ""
            raise ValueError(
                f"layers must be modules of the backbone, {[*top, OUTPUT]} and their parts,"
                f" got {layer!r}{hint}"
            )
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"layers must be at least one and different, got {list(layers)}")
    return tuple(layers)
