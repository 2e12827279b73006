"""Build a backbone from its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_backbone(factory: str, *, arguments: Mapping[str, Any], weights: str | None) -> nn.Module:
    """Build the network that gives the features.

    Parameters
    ----------
    factory : str
        `module:function` that returns a `torch.nn.Module`.
    arguments : mapping
        Keyword arguments of the function.
    weights : str, optional
        A local state dict (`.pth`, `.pt` or `.safetensors`), or else a name that the function
        takes as its argument `weights`. None leaves the function's own default.

    Returns
    -------
    torch.nn.Module
        The backbone in evaluation mode.

    Raises
    ------
    ValueError
        If the factory or the weights cannot be found.
    """
    function = _resolve(factory)
    if weights is None:
        return function(**arguments).eval()
    if Path(weights).suffix in {".pth", ".pt", ".safetensors"}:
        return _with_state_dict(function, arguments, Path(weights)).eval()
    if "weights" not in inspect.signature(function).parameters:
        raise ValueError(f"weights must be the path of a state dict for {factory}, got {weights!r}")
    return function(**arguments, weights=weights).eval()


def _resolve(factory: str) -> Callable[..., nn.Module]:
    module_name, _, name = factory.partition(":")
    if not module_name or not name:
        raise ValueError(f"factory must be written module:function, got {factory!r}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"factory {factory!r}: {error}") from error
    if not hasattr(module, name):
        raise ValueError(f"factory {factory!r}: module {module_name!r} has no {name!r}")
    function: Callable[..., nn.Module] = getattr(module, name)
    return function


def _with_state_dict(
    function: Callable[..., nn.Module], arguments: Mapping[str, Any], path: Path
) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"weights: no such file {str(path)!r}")
    takes_weights = "weights" in inspect.signature(function).parameters
    module = function(**arguments, **({"weights": None} if takes_weights else {}))
    module.load_state_dict(_read_state_dict(path))
    return module


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    return dict(torch.load(path, map_location="cpu", weights_only=True))
