"""Torch: batch norms fused, channels last, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from harness.features.extractor import LazyExtractor
from harness.features.spec import ExtractionSpec

if TYPE_CHECKING:
    from harness.features.engines import Engine

_CONV = torch.ops.aten.conv2d.default
_BATCH_NORM = torch.ops.aten.batch_norm.default


def fuse_batch_norms(graph_module: GraphModule) -> GraphModule:
    """Fold each batch norm, in place, into the convolution before it whose only user it is."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        conv = node.args[0] if node.target is _BATCH_NORM else None
        if isinstance(conv, Node) and conv.target is _CONV and list(conv.users) == [node]:
            _fold(graph_module, conv=conv, norm=node)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _fold(graph_module: GraphModule, *, conv: Node, norm: Node) -> None:
    # aten.conv2d(input, weight, bias=None, ...)
    image, weight, bias = (*conv.args, None)[:3]
    # aten.batch_norm(input, weight, bias, mean, var, training, momentum, eps, cudnn_enabled)
    gamma, beta, mean, var = (_tensor(graph_module, node) for node in norm.args[1:5])
    kernel, offset = _tensor(graph_module, weight), _tensor(graph_module, bias)
    fused = fuse_conv_bn_weights(kernel, offset, mean, var, norm.args[7], gamma, beta)  # type: ignore[arg-type]
    with graph_module.graph.inserting_before(conv):
        nodes = []
        for name, tensor in zip(("weight", "bias"), fused, strict=True):
            graph_module.register_buffer(f"{conv.name}_fused_{name}", tensor.detach())
            nodes.append(graph_module.graph.get_attr(f"{conv.name}_fused_{name}"))
    conv.args = (image, *nodes, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    graph_module.graph.erase_node(norm)


def _tensor(graph_module: GraphModule, node: Any) -> Any:
    """Return the parameter or buffer of a node; None for an argument left out."""
    if node is None:
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(graph_module.get_submodule(owner), name)


def torch_engine(extractor: LazyExtractor, spec: ExtractionSpec) -> Engine:
    """Run the captured backbone in torch's inference mode."""
    program = extractor.program(spec.shape)
    device = torch.device(spec.device)
    if device.type == "cuda":
        program = move_to_device_pass(program, device)
    graph = fuse_batch_norms(program.module()).to(memory_format=torch.channels_last)
    # The CPU's threads compute side by side; a GPU computes one batch at a time.
    turn: AbstractContextManager = Lock() if device.type == "cuda" else nullcontext()

    def compute(images: NDArray[np.float32]) -> Sequence[NDArray]:
        if torch.get_num_threads() != 1:  # in this thread; sums depend on it
            torch.set_num_threads(1)
        batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        with turn, torch.inference_mode(), _numerics(spec):
            return [one.float().cpu().numpy() for one in graph(batch.to(device))]

    return compute


def _numerics(spec: ExtractionSpec) -> AbstractContextManager:
    if spec.precision == "bf16":
        return torch.autocast(spec.device, dtype=torch.bfloat16)
    if spec.device == "cpu":  # cuDNN's flags are of the process, not of the thread
        return nullcontext()
    # TensorFloat-32, cuDNN's default for convolutions, keeps 10 bits of the mantissa.
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
