"""Features of images: extracted once, kept by content.

Every name is imported on first use: a command that stops before it reads an image needs neither
numpy nor Pillow, and one that finds its features in the cache needs no inference engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.features.extractor import LazyExtractor
    from harness.features.reader import FeatureReader
    from harness.features.recipe import Recipe
    from harness.features.shared import feature_reader

__all__ = ["FeatureReader", "LazyExtractor", "Recipe", "feature_reader"]

_HOMES = {
    "FeatureReader": "harness.features.reader",
    "LazyExtractor": "harness.features.extractor",
    "Recipe": "harness.features.recipe",
    "feature_reader": "harness.features.shared",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"{__name__} has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
