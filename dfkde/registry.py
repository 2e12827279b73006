"""Names of this project's localizers, models and backbones, and which may be imported from a file.

Nothing is imported with this module: mistakes are reported before the libraries are loaded.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from dfkde.backbones.presence import LITE, TIMM, TORCHVISION

LOCALIZERS = ("occlusion", "patch_density", "uniform", "none")
"""The localizers by name; `none` for no anomaly maps."""

# A list, not a rule: names that merely begin with `dfkde.` include all that its modules import.
ESTIMATORS = frozenset(
    {
        "dfkde.baselines:Constant",
        "dfkde.baselines:Gaussian",
        "dfkde.baselines:KNN",
        "dfkde.density:DFKDE",
        "dfkde.density:DFKDEResidual",
        "dfkde.density:GaussianKDE",
        "dfkde.density:PCA",
        "dfkde.localizers:Occlusion",
        "dfkde.localizers:PatchDensity",
        "dfkde.localizers:Uniform",
        "dfkde.padim:PaDiM",
        "dfkde.patch_kde:PatchKDE",
        "dfkde.patchcore:PatchCore",
    }
)
"""All estimators of this project, by the module that defines them."""

FACTORIES = frozenset({TORCHVISION, TIMM, LITE})
"""All backbone factories of this project."""

_TRUSTED = ESTIMATORS | FACTORIES


class TrustError(ValueError):
    """A stored file names code that is neither this project's own nor trusted by the caller."""


def check_localizer(name: str) -> None:
    """Raise a ValueError for a name that no localizer has."""
    if name not in LOCALIZERS:
        near = get_close_matches(name, LOCALIZERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"localizer must be one of {[*LOCALIZERS]}, got {name!r}{hint}")


def resolve(name: str) -> Any:
    """Return what `module:name` or `path/to/file.py:name` stands for; whatever import raises."""
    source, _, inner = name.rpartition(":")
    if source.endswith(".py"):
        return getattr(_module_of_file(Path(source)), inner)
    return resolve_name(name)


def _module_of_file(path: Path) -> ModuleType:
    """Import a Python file of the user's, as a module with the name of the file."""
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


def untrusted(names: Iterable[str], trusted: Sequence[str]) -> list[str]:
    """Return those of a file's names, each once, that are neither our own nor in `trusted`."""
    if isinstance(trusted, str):  # in which any part of it would be found
        raise TrustError(f"trusted must be several names, as in [{trusted!r}], got {trusted!r}")
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise ValueError(f"a class or factory must be named by a text, got {name!r}")
    return [name for name in dict.fromkeys(found) if name not in _TRUSTED and name not in trusted]


def check_trusted(
    names: Iterable[str], trusted: Sequence[str], *, source: str, option: str = "trusted="
) -> None:
    """Raise a `TrustError` that lists all untrusted names in a file and how to trust them.

    `option` is how the command line takes names: `trusted=` with commas, `--trusted ` with spaces.
    """
    refused = untrusted(names, trusted)
    if not refused:
        return
    every = [*trusted, *refused]
    # Somebody will paste it into a shell, whatever the file holds.
    quoted = [shlex.quote(name if name.isprintable() else repr(name)) for name in every]
    line = ("," if option.endswith("=") else " ").join(quoted)
    raise TrustError(
        f"{source} asks for {', '.join(map(repr, refused))}, no model or backbone of this project,"
        f" and what it names would run; if you trust that code, allow it by {option}{line} on the"
        f" command line or trusted={tuple(every)} in Python"
    )
