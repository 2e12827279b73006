"""Fitted estimators as JSON and arrays, and back: no pickle, no code but ours and the trusted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from dfkde.backbones.presence import LITE, TIMM, TORCHVISION

ESTIMATORS = frozenset(
    {
        "dfkde.baselines:Constant",
        "dfkde.baselines:Gaussian",
        "dfkde.baselines:KNN",
        "dfkde.density:DFKDE",
        "dfkde.density:DFKDEResidual",
        "dfkde.density:GaussianKDE",
        "dfkde.localizers:Occlusion",
        "dfkde.localizers:PatchDensity",
        "dfkde.localizers:Uniform",
        "dfkde.pca:PCA",
    }
)
"""All estimators of this project, by the module that defines them.

Written out: a rule on the text alone would take whatever these modules import for their own, and
one on the class would have to import first.
"""

FACTORIES = frozenset({TORCHVISION, TIMM, LITE})
"""All factories of backbones of this project."""


class TrustError(ValueError):
    """A stored file names code that is not this project's own, nor named by the caller."""


def untrusted(names: Iterable[str], trusted: Sequence[str]) -> list[str]:
    """Return the names that must not be imported, each once; imports nothing itself.

    Parameters
    ----------
    names : iterable of str
        What a file names, as `module:class` or `module:function`.
    trusted : sequence of str
        What the caller has named, in the very words of the file.

    Raises
    ------
    TrustError
        If `trusted` is one text, in which any part of it would be found.
    ValueError
        If a name is no text.
    """
    if isinstance(trusted, str):
        raise TrustError(f"trusted must be several names, as in [{trusted!r}], got {trusted!r}")
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise ValueError(f"a class or factory must be named by a text, got {name!r}")
    allowed = ESTIMATORS | FACTORIES | set(trusted)
    return [name for name in dict.fromkeys(found) if name not in allowed]


def check_trusted(
    names: Iterable[str], trusted: Sequence[str], *, source: str, option: str = "trusted="
) -> None:
    """Refuse names that must not be imported, all at once.

    Parameters
    ----------
    names, trusted
        As `untrusted` takes them.
    source : str
        What names them, for the message.
    option : str
        How the command line takes trusted names: `trusted=` with commas, `--trusted ` with spaces.

    Raises
    ------
    TrustError
        In one line: the names, the rule, and how to allow them beside those allowed already.
    ValueError
        If a name is no text.
    """
    refused = untrusted(names, trusted)
    if not refused:
        return
    every = [*trusted, *refused]
    line = ("," if option.endswith("=") else " ").join(map(_quoted, every))
    raise TrustError(
        f"{source} asks for {', '.join(map(repr, refused))}, no model or backbone of this project,"
        f" and what it names would run; if you trust that code, allow it by {option}{line} on the"
        f" command line or trusted={tuple(every)} in Python"
    )


def _quoted(name: str) -> str:
    """Quote a name for a shell: somebody will paste it, whatever the file holds."""
    return shlex.quote(name if name.isprintable() else repr(name))


Arrays = dict[str, np.ndarray[Any, Any]]
_PLAIN = (bool, int, float, str, type(None))


class Encoder:
    """Takes fitted estimators apart.

    An estimator may keep, in attributes that end with an underscore, arrays, numbers, text and
    other estimators. One that is reached twice is written once.

    Attributes
    ----------
    arrays : dict of str to array
        What has been taken out so far, by the path to it.
    """

    def __init__(self) -> None:
        self.arrays: Arrays = {}
        self._paths: dict[int, str] = {}

    def encode(self, value: Any, path: str) -> dict[str, Any]:
        """Describe a value in terms that JSON has.

        Parameters
        ----------
        value : object
            An estimator, or what it keeps.
        path : str
            How it is reached, with dots.

        Raises
        ------
        TypeError
            If it is none of what may be kept; the message says where.
        """
        if isinstance(value, BaseEstimator):
            return self._estimator(value, path)
        if isinstance(value, np.ndarray) and value.dtype == object:
            return {"names": [str(name) for name in value]}
        if isinstance(value, np.ndarray):
            self.arrays[path] = np.ascontiguousarray(value)
            return {"array": path}
        return {"value": _plain(value, path)}

    def _estimator(self, estimator: BaseEstimator, path: str) -> dict[str, Any]:
        if id(estimator) in self._paths:
            return {"same_as": self._paths[id(estimator)]}
        self._paths[id(estimator)] = path
        kind = type(estimator)
        if kind.__module__ == "__main__":
            raise TypeError(f"{path}: {kind.__name__} must stand in a module to be found again")
        params = estimator.get_params(deep=False)
        return {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "params": {name: _plain(value, f"{path}.{name}") for name, value in params.items()},
            "attributes": {
                name: self.encode(value, f"{path}.{name}")
                for name, value in sorted(vars(estimator).items())
                if _is_kept(name)
            },
        }


class Decoder:
    """Puts together what an `Encoder` took apart.

    Parameters
    ----------
    arrays : dict of str to array
        The encoder's arrays.
    trusted : sequence of str
        Classes that may be imported beside this project's own, as `module:class`.
    """

    def __init__(self, arrays: Arrays, trusted: Sequence[str] = ()) -> None:
        self._arrays = arrays
        self._trusted = trusted
        self._estimators: dict[str, BaseEstimator] = {}

    def decode(self, state: dict[str, Any], path: str) -> Any:
        """Rebuild the value that stands at a path.

        Raises
        ------
        TrustError
            If a class is neither this project's own nor trusted; it is not imported.
        ValueError
            If a class cannot be found or is no estimator, or an attribute is none that an
            `Encoder` would write: a method, say.
        """
        if "class" in state:
            return self._estimator(state, path)
        if "same_as" in state:
            return self._estimators[state["same_as"]]
        if "array" in state:
            return self._arrays[state["array"]]
        return np.array(state["names"], dtype=object) if "names" in state else state["value"]

    def _estimator(self, state: dict[str, Any], path: str) -> BaseEstimator:
        check_trusted([state["class"]], self._trusted, source=f"the saved {path}")
        estimator = _class(state["class"])(**state["params"])
        self._estimators[path] = estimator
        for name, value in state["attributes"].items():
            _check_attribute(type(estimator), name, path=path)
            setattr(estimator, name, self.decode(value, f"{path}.{name}"))
        return estimator


def _class(name: str) -> type[BaseEstimator]:
    module, _, qualified = name.partition(":")
    try:
        found = getattr(import_module(module), qualified)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the saved model's class {name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseEstimator)):
        raise ValueError(f"the saved model's class {name} is no scikit-learn estimator")
    return found


def _is_kept(name: str) -> bool:
    """Tell whether an attribute is what an estimator has learnt, by scikit-learn's convention."""
    return name.endswith("_") and not name.startswith("_")


def _check_attribute(kind: type[BaseEstimator], name: str, *, path: str) -> None:
    of_class = getattr(kind, name, None)
    if not _is_kept(name) or callable(of_class) or isinstance(of_class, property):
        raise ValueError(
            f"{path}.{name} must be an attribute that a fitted {kind.__name__} keeps: its name"
            " ends with an underscore, begins with none, and is no method's"
        )


def _plain(value: Any, path: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, _PLAIN):
        raise TypeError(
            f"{path} cannot be saved: a model may keep arrays, numbers, text and estimators,"
            f" got {type(value).__name__}"
        )
    return value
