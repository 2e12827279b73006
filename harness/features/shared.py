"""One feature reader for all jobs of a process, so that a backbone is built once for a sweep."""

from __future__ import annotations

from harness.config import BackboneConfig, FeaturesConfig
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader

_readers: dict[str, FeatureReader] = {}


def feature_reader(
    backbone: BackboneConfig,
    features: FeaturesConfig,
    *,
    image_size: int,
    center_crop: int | None = None,
    random_seed: int | None = None,
) -> FeatureReader:
    """Return the reader of these settings; the same one for equal settings.

    Only the reader asked for last is kept: two backbones of a sweep need not fit into memory
    together. Nor is one whose network turned out to have changed on disk. `random_seed` is as
    `LazyExtractor` takes it.
    """
    seed = random_seed if backbone.random else None
    key = repr((backbone, features, image_size, center_crop, seed))
    if key not in _readers or _readers[key].outdated:
        _readers.clear()
        _readers[key] = FeatureReader(
            LazyExtractor(backbone, cache=features.cache, random_seed=seed),
            image_size=image_size,
            cache=features.cache,
            settings=features,
            center_crop=center_crop,
        )
    return _readers[key]
