"""Names that can be chosen, checked without the libraries that what they stand for needs."""

from __future__ import annotations

LOCALIZERS = ("occlusion", "patch_density", "uniform", "none")
"""The localizers by name; `none` for no anomaly maps."""


def check_localizer(name: str) -> None:
    """Refuse a name that no localizer has.

    Raises
    ------
    ValueError
        In one line: the name and the choices.
    """
    if name not in LOCALIZERS:
        raise ValueError(f"localizer must be one of {[*LOCALIZERS]}, got {name!r}")
