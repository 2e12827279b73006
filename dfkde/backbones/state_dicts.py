"""Tensors from files and into networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict without running any code that it may carry.

    Parameters
    ----------
    path : Path
        A `.safetensors` file, or one that `torch.load` reads with `weights_only=True`.

    Raises
    ------
    ValueError
        If there is no such file or it is no state dict.
    """
    if not path.is_file():
        raise ValueError(f"weights: there is no file {str(path)!r}")
    try:
        state_dict = _load(path)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"weights: {str(path)!r} is no readable state dict: {reason}") from error
    if not isinstance(state_dict, Mapping) or not all(map(torch.is_tensor, state_dict.values())):
        raise ValueError(f"weights: {str(path)!r} must map names to tensors and holds more")
    return dict(state_dict)


def fill(module: nn.Module, state_dict: Mapping[str, Tensor], *, source: Path) -> None:
    """Put tensors into a network; those that it does not have, as a classifier's, are left out.

    Raises
    ------
    ValueError
        If a tensor of the network is missing or has another shape.
    """
    # How many batches a norm has seen is of no use in evaluation, and older files lack it.
    own = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state_dict]
    if missing:
        raise ValueError(_listed(source, f"lacks {len(missing)} of {len(own)} tensors", missing))
    wrong = [name for name in own if own[name].shape != state_dict[name].shape]
    if wrong:
        raise ValueError(
            _listed(source, f"has another shape for {len(wrong)} of {len(own)} tensors", wrong)
        )
    module.load_state_dict({name: state_dict[name] for name in own}, strict=False)


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _listed(source: Path, problem: str, names: list[str]) -> str:
    dots = ", ..." if len(names) > 3 else ""
    return f"weights: {str(source)!r} {problem} of the backbone: {', '.join(names[:3])}{dots}"
