"""From the name of a model in `conf/model` to an estimator, checked before any work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any

from harness.config import ModelConfig


def build_model(config: ModelConfig) -> Any:
    """Return an unfitted estimator.

    Parameters
    ----------
    config : ModelConfig
        The model's class and its parameters.

    Returns
    -------
    estimator
        With `fit(X)` and `anomaly_score(X)`; X holds pooled features, shape (n, d).

    Raises
    ------
    ValueError
        If the class cannot be found or does not take one of the parameters: one line with the
        key, the value and the choices.
    """
    factory = _resolve(config.factory)
    accepted = list(inspect.signature(factory).parameters)
    for name in config.params:
        if name not in accepted:
            raise ValueError(_unknown_parameter(name, accepted, factory=config.factory))
    return factory(**config.params)


def without_seed(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a model's parameters without a `random_state` that is the job's seed.

    Examples
    --------
    >>> without_seed({"k": 1, "random_state": 42}, 42), without_seed({"random_state": 7}, 42)
    ({'k': 1}, {'random_state': 7})
    """
    return {k: v for k, v in params.items() if k != "random_state" or v != seed}


def _resolve(factory: str) -> Any:
    try:
        return resolve_name(factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.factory must be an importable 'module:class', got {factory!r} ({error})"
        ) from error


def _unknown_parameter(name: str, accepted: list[str], *, factory: str) -> str:
    near = get_close_matches(name, accepted, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(accepted) or "none"
    return f"model.params.{name} is not a parameter of {factory}{hint} Choose from: {listed}"
