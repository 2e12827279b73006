"""Batch norms folded into the convolutions before them, in a recorded backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONV = torch.ops.aten.conv2d.default
_BATCH_NORM = torch.ops.aten.batch_norm.default


def fuse_batch_norms(graph_module: GraphModule) -> GraphModule:
    """Fold each batch norm into the convolution before it, in place.

    A convolution whose output something else uses too keeps its batch norm.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is _BATCH_NORM and _only_feeds(node.args[0], node):
            _fold(graph_module, conv=node.args[0], norm=node)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _only_feeds(conv: Any, norm: Node) -> bool:
    return isinstance(conv, Node) and conv.target is _CONV and list(conv.users) == [norm]


def _fold(graph_module: GraphModule, *, conv: Node, norm: Node) -> None:
    # aten.conv2d(input, weight, bias=None, ...)
    image, weight, bias = (*conv.args, None)[:3]
    # aten.batch_norm(input, weight, bias, mean, var, training, momentum, eps, cudnn_enabled)
    gamma, beta, mean, var = (_tensor(graph_module, node) for node in norm.args[1:5])
    kernel, offset = _tensor(graph_module, weight), _tensor(graph_module, bias)
    fused = fuse_conv_bn_weights(kernel, offset, mean, var, norm.args[7], gamma, beta)  # type: ignore[arg-type]
    with graph_module.graph.inserting_before(conv):
        nodes = [
            _constant(graph_module, f"{conv.name}_fused_{name}", tensor)
            for name, tensor in zip(("weight", "bias"), fused, strict=True)
        ]
    conv.args = (image, *nodes, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    graph_module.graph.erase_node(norm)


def _tensor(graph_module: GraphModule, node: Any) -> Any:
    """Return the parameter or buffer that a node stands for; None for an argument left out."""
    if node is None:
        return None
    owner, _, name = str(node.target).rpartition(".")
    return getattr(graph_module.get_submodule(owner), name)


def _constant(graph_module: GraphModule, name: str, tensor: torch.Tensor) -> Node:
    graph_module.register_buffer(name, tensor.detach())
    return graph_module.graph.get_attr(name)
