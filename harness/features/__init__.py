"""Features of images: extracted once, kept by content.

Importing this package needs neither torch nor an inference engine; they are loaded when an image
is not in the cache.
"""

from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader
from harness.features.recipe import Recipe
from harness.features.shared import feature_reader

__all__ = ["FeatureReader", "LazyExtractor", "Recipe", "feature_reader"]
