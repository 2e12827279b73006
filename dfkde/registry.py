"""Names of this project's localizers, models and backbones, and which may be imported from a file.

Nothing that they name is imported here: mistakes are reported before the libraries are loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

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

RENAMED = {
    "dfkde.kernel_density:GaussianKDE": "dfkde.density:GaussianKDE",
    "dfkde.pca:PCA": "dfkde.density:PCA",
}
"""Estimators under the names that detectors saved by older versions hold."""

FACTORIES = frozenset({TORCHVISION, TIMM, LITE})
"""All backbone factories of this project."""

_TRUSTED = ESTIMATORS | FACTORIES | RENAMED.keys()


class TrustError(ValueError):
    """A stored file names code that is neither this project's own nor trusted by the caller."""


def check_localizer(name: str) -> None:
    """Raise a ValueError for a name that no localizer has."""
    if name not in LOCALIZERS:
        raise ValueError(f"localizer must be one of {[*LOCALIZERS]}, got {name!r}")


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
    line = ("," if option.endswith("=") else " ").join(map(_quoted, every))
    raise TrustError(
        f"{source} asks for {', '.join(map(repr, refused))}, no model or backbone of this project,"
        f" and what it names would run; if you trust that code, allow it by {option}{line} on the"
        f" command line or trusted={tuple(every)} in Python"
    )


def _quoted(name: str) -> str:
    """Quote a name for a shell: somebody will paste it, whatever the file holds."""
    return shlex.quote(name if name.isprintable() else repr(name))
