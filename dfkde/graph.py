"""The operations that a network's `forward` runs: recorded as a graph, and digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

_RULE = "backbone.factory must build a network that gives an image the same features every time"
# Arguments with which an operator that may draw random numbers does not.
_DETERMINISTIC = {"train": False, "training": False, "p": 0.0, "dropout_p": 0.0}


def capture(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """Record what a network in evaluation mode computes for a float32 batch (n, 3, H, W).

    A network that torch cannot record (it branches on values, say) is a ValueError, and so is one
    whose output depends on more than the image: it draws random numbers, or changes a buffer.
    """
    program = _recorded(module, shape)
    drawing = sorted({str(node.target) for node in _nodes(program) if _draws(node)})
    if drawing:
        raise ValueError(f"{_RULE}, got one whose forward draws random numbers: {drawing}")
    changed = sorted(_changed(program))
    if changed:
        raise ValueError(f"{_RULE}, got one whose forward changes its own tensors: {changed}")
    return program


def graph_digest(program: ExportedProgram) -> str:
    """Return the SHA-256 (hexadecimal) over what a recorded network computes.

    Two networks have one digest where they run the same operators in the same order on the same
    arguments, parameters and constants. Names of nodes, modules and parameters, lines of source and
    tensors that nothing reads do not enter; an argument that is left out counts as its default.
    """
    tensors = {**program.state_dict, **program.constants}
    given = {
        spec.arg.name: tensors[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.target is not None and spec.target in tensors
    }
    return _digest(program.graph_module, given)


def _recorded(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(module, (torch.zeros(shape),))
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "backbone.factory must build a network that torch.export can record for images of"
            f" {shape[-1]} pixels, got {type(error).__name__}: {reason}"
        ) from error


def _nodes(program: ExportedProgram) -> Iterator[Node]:
    """Yield the nodes of the graph and of all branches in it."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            yield from module.graph.nodes


def _changed(program: ExportedProgram) -> set[str]:
    """Name the parameters, buffers and constants that operators write to, also through views."""
    kept = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target}
    names = {n: str(kept[n.name]) for n in program.graph.nodes if n.name in kept}
    changed = set()
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema, values = node.target._schema, _named_arguments(node)
        aliases = {a.name: a.alias_info.is_write for a in schema.arguments if a.alias_info}
        given = {name: values.get(name) for name in aliases}
        owners = {n: names[v] for n, v in given.items() if isinstance(v, Node) and v in names}
        changed |= {owner for name, owner in owners.items() if aliases[name]}
        if owners and any(result.alias_info for result in schema.returns):
            names[node] = next(iter(owners.values()))
    return changed


def _draws(node: Node) -> bool:
    """Return whether an operator draws random numbers, as dropout does in training."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    values = _named_arguments(node)
    return not any(values.get(name, ...) == value for name, value in _DETERMINISTIC.items())


def _digest(module: GraphModule, given: Mapping[str, object]) -> str:
    digest = hashlib.sha256()
    for line in _lines(module, given):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _lines(module: GraphModule, given: Mapping[str, object]) -> Iterator[str]:
    """Describe each node in turn; others refer to it by the number of its line."""
    numbers: dict[Node, int] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder" and not node.users:
            continue
        numbers[node] = len(numbers)
        if node.op == "placeholder":
            yield _constant(given[node.name]) if node.name in given else "input"
        elif node.op == "get_attr":
            yield _constant(attrgetter(str(node.target))(module))
        else:
            yield f"{_target(node)}({', '.join(_arguments(node, numbers))})"


def _constant(value: object) -> str:
    """Describe what a graph holds: a tensor by its bytes, a branch by its own graph."""
    if isinstance(value, GraphModule):
        return f"graph {_digest(value, {})}"
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} {value!r}"
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{value.dtype}{list(value.shape)} {hashlib.sha256(data).hexdigest()}"


def _target(node: Node) -> str:
    target = node.target
    if isinstance(target, str) or not hasattr(target, "__name__"):
        return str(target)
    is_operator = isinstance(target, torch._ops.OperatorBase)
    return str(target) if is_operator else f"{target.__module__}.{target.__name__}"


def _arguments(node: Node, numbers: Mapping[Node, int]) -> Iterator[str]:
    """Write the arguments by name where the operator has names, without those at their default."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        yield from (_value(value, numbers) for value in node.args)
        yield from _named(node.kwargs.items(), numbers)
        return
    defaults = _defaults(schema)
    for name, value in sorted(_named_arguments(node).items()):
        default = defaults.get(name, ...)
        if type(value) is not type(default) or value != default:  # 1 is not True
            yield f"{name}={_value(value, numbers)}"


def _named_arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an operator by name, defaults included."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    return _defaults(schema) | dict(zip(names, node.args, strict=False)) | node.kwargs


def _defaults(schema: Any) -> dict[str, Any]:
    return {a.name: a.default_value for a in schema.arguments if a.has_default_value()}


def _named(items: Iterable[tuple[str, Any]], numbers: Mapping[Node, int]) -> Iterator[str]:
    yield from (f"{name}={_value(value, numbers)}" for name, value in sorted(items))


def _value(value: object, numbers: Mapping[Node, int]) -> str:
    if isinstance(value, Node):
        return f"%{numbers[value]}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(one, numbers) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(_named(value.items(), numbers))}}}"
    if isinstance(value, slice):
        return f"slice{_value((value.start, value.stop, value.step), numbers)}"
    return repr(value)
