"""Build a backbone from its description."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from dfkde.backbones.presence import weights_path
from dfkde.backbones.state_dicts import fill, read_state_dict

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
        takes as its argument `weights`. None for a function that knows its weights by itself.
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
    state_dict = read_state_dict(path) if path else None
    with _seeded(seed):
        module = function(**given)
    if not isinstance(module, nn.Module):
        raise ValueError(f"factory {factory!r} must return a torch.nn.Module, got {module!r}")
    if path and state_dict is not None:
        fill(module, state_dict, source=path)
    return module.eval()


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_weights(
    function: Factory, arguments: dict[str, Any], name: str | None, *, factory: str
) -> dict[str, Any]:
    taken = inspect.signature(function).parameters.get("weights")
    if taken is None and name is not None:
        raise ValueError(
            f"weights must be null or the path of a state dict, for the factory {factory}"
            f" has none by name, got {name!r}"
        )
    # A name, or None where the function has no default and leaves the tensors to a state dict.
    if taken is not None and (name is not None or taken.default is taken.empty):
        if "weights" in arguments:
            raise ValueError(
                f"arguments of the factory {factory} must not hold weights, which are set by"
                f" backbone.weights={name or 'null'}, got {arguments['weights']!r}"
            )
        arguments["weights"] = name
    return arguments


def _resolve(factory: str) -> Factory:
    source, _, name = factory.rpartition(":")
    if not source or not name:
        raise ValueError(f"factory must be written module:function, got {factory!r}")
    try:
        module = _module_of_file(Path(source)) if source.endswith(".py") else import_module(source)
        function: Factory = getattr(module, name)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"factory {factory!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"factory {factory!r} is no function")
    return function


def _module_of_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{str(path)!r} is no Python file")
    module = module_from_spec(spec)
    is_new = sys.modules.setdefault(path.stem, module) is module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if is_new:  # half of a module must not be found by the next import
            del sys.modules[path.stem]
        raise
    return module
