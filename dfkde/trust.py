"""Which code a stored file may have imported: this project's own, and what the caller names."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from dfkde.backbones.presence import LITE, TIMM, TORCHVISION

ESTIMATORS = frozenset(
    {
        "dfkde.baselines:Constant",
        "dfkde.baselines:Gaussian",
        "dfkde.baselines:KNN",
        "dfkde.density:DFKDE",
        "dfkde.density:DFKDEResidual",
        "dfkde.kernel_density:GaussianKDE",
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
