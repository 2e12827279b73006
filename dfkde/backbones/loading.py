"""Build a backbone from its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dfkde.backbones.presence import weights_path
from dfkde.registry import resolve

Factory = Callable[..., nn.Module]


def load_backbone(
    factory: str,
    *,
    arguments: Mapping[str, Any],
    weights: str | None,
    seed: int | None = None,
) -> nn.Module:
    """Build the network that gives the features.

    Parameters
    ----------
    factory : str
        `module:function`, or `path/to/file.py:function`, that returns a `torch.nn.Module`.
    arguments : mapping
        Keyword arguments of the function.
    weights : str, optional
        The path of a local state dict (`.pth` or `.safetensors`), else a name that the function
        takes as its argument `weights`. None for a function that brings its own weights.
    seed : int, optional
        Of torch's random numbers while the function runs, for a network of random weights; the
        generator is as before afterwards. None leaves it alone.

    Returns
    -------
    torch.nn.Module
        The backbone in evaluation mode.

    Raises
    ------
    ValueError
        If the factory, an argument or the weights do not exist; the message lists the choices.
    WeightsError
        If the weights have to be downloaded and cannot be.
    """
    function = _resolve(factory)
    path = weights_path(weights)
    given = _with_weights(function, dict(arguments), None if path else weights, factory=factory)
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        raise ValueError(f"arguments of the factory {factory}: {error}") from error
    state_dict = _read_state_dict(path) if path else None
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        module = function(**given)
    if not isinstance(module, nn.Module):
        raise ValueError(f"factory {factory!r} must return a torch.nn.Module, got {module!r}")
    if path and state_dict is not None:
        _fill(module, state_dict, source=path)
    return module.eval()


def _resolve(factory: str) -> Factory:
    if not all(factory.rpartition(":")):  # `resolve` takes `module.function` as well
        raise ValueError(f"factory must be written module:function, got {factory!r}")
    try:
        function: Factory = resolve(factory)
    except (ImportError, AttributeError, ValueError, FileNotFoundError) as error:
        raise ValueError(f"factory {factory!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"factory {factory!r} is no function")
    return function


def _with_weights(
    function: Factory, arguments: dict[str, Any], name: str | None, *, factory: str
) -> dict[str, Any]:
    """Add the name of weights, or None where the function needs one and a state dict follows."""
    taken = inspect.signature(function).parameters.get("weights")
    if taken is None and name is not None:
        raise ValueError(
            f"weights must be null or the path of a state dict, for the factory {factory}"
            f" has none by name, got {name!r}"
        )
    if taken is None or (name is None and taken.default is not taken.empty):
        return arguments
    if "weights" in arguments:
        raise ValueError(
            f"arguments of the factory {factory} must not hold weights, which are set by"
            f" backbone.weights={name or 'null'}, got {arguments['weights']!r}"
        )
    return arguments | {"weights": name}


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict without running any code that it may carry."""
    if not path.is_file():
        raise ValueError(f"weights: there is no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"weights: {str(path)!r} is no readable state dict: {reason}") from error
    if not isinstance(state_dict, Mapping) or not all(map(torch.is_tensor, state_dict.values())):
        raise ValueError(f"weights: {str(path)!r} must map names to tensors and holds more")
    return dict(state_dict)


def _fill(module: nn.Module, state_dict: Mapping[str, Tensor], *, source: Path) -> None:
    """Load the tensors that a network has; others, as a classifier's, are left out."""
    # How many batches a norm has seen is of no use in evaluation, and older files lack it.
    own = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state_dict]
    wrong = missing or [name for name in own if own[name].shape != state_dict[name].shape]
    if wrong:
        raise ValueError(
            f"weights: {str(source)!r} {'lacks' if missing else 'has another shape for'}"
            f" {len(wrong)} of {len(own)} tensors of the backbone: {', '.join(wrong[:3])}"
            + (", ..." if len(wrong) > 3 else "")
        )
    module.load_state_dict({name: state_dict[name] for name in own}, strict=False)
