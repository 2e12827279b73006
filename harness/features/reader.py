"""Features of samples, from the cache where they are there, else extracted and kept."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config import FeaturesConfig
from harness.data.split import Sample
from harness.features.engine import Engine, TorchEngine
from harness.features.extractor import module_of
from harness.features.inputs import read_input
from harness.features.recipe import Identity, recipe_of
from harness.features.store import MAPS, POOLED, FeatureStore

_DEFAULTS = FeaturesConfig()


class FeatureReader:
    """Reads pooled features and feature maps of samples.

    Parameters
    ----------
    extractor : LazyExtractor or torch.nn.Module
        The feature extractor; a lazy one is built only when a feature is not in the cache.
    image_size : int
        Height and width in pixels to which images are resized.
    cache : path-like, optional
        Where features are kept; None keeps them in a temporary folder, as long as the reader
        lives.
    settings : FeaturesConfig
        How features are extracted.

    Attributes
    ----------
    recipe : Recipe
        What determines the features besides the images, every `auto` resolved.
    n_extracted : int
        Number of images that went through the backbone so far.
    """

    def __init__(
        self,
        extractor: Identity,
        *,
        image_size: int,
        cache: str | Path | None,
        settings: FeaturesConfig = _DEFAULTS,
    ) -> None:
        self.recipe = recipe_of(extractor, image_size=image_size, settings=settings)
        self.n_extracted = 0
        self._extractor = extractor
        self._settings = settings
        if cache is None:
            cache = tempfile.mkdtemp(prefix="features-")
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self._store = FeatureStore(Path(cache), self.recipe)

    def pooled(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Return the pooled features of the samples, in their order.

        Returns
        -------
        ndarray of shape (n, D), float32
        """
        found: dict[str, NDArray[np.float32]] = {}
        missing: dict[str, Sample] = {}
        for sample in samples:
            pooled = self._store.read(sample.digest, POOLED)
            if pooled is None:
                missing[sample.digest] = sample
            else:
                found[sample.digest] = pooled
        found.update(self._extract(list(missing.values())))
        return np.stack([found[sample.digest] for sample in samples])

    def maps(self, samples: Sequence[Sample]) -> Iterator[NDArray[np.float32]]:
        """Yield the feature map of each sample, (D, h, w) float32, in their order."""
        missing = {s.digest: s for s in samples if not self._store.has(s.digest, MAPS)}
        for _ in self._extract(list(missing.values()), maps=True):
            pass
        for sample in samples:
            yield self._map(sample)

    def _map(self, sample: Sample) -> NDArray[np.float32]:
        feature_map = self._store.read(sample.digest, MAPS)
        if feature_map is None:  # damaged or evicted meanwhile
            list(self._extract([sample], maps=True))
            feature_map = self._store.read(sample.digest, MAPS)
        if feature_map is None:
            raise RuntimeError(f"the cache {self._store.folder} loses features as they are written")
        return feature_map

    def _extract(
        self, samples: Sequence[Sample], *, maps: bool = False
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        for sample in samples:
            pooled, feature_maps = self._engine(self._input(sample)[None])
            self.n_extracted += 1
            self._store.write(sample.digest, POOLED, pooled[0])
            if maps or self._settings.maps:
                self._store.write(sample.digest, MAPS, feature_maps[0])
            yield sample.digest, pooled[0]

    def _input(self, sample: Sample) -> NDArray[np.float32]:
        size, resize = self.recipe.image_size, self.recipe.resize
        return read_input(sample.path, image_size=size, resize=resize)

    @cached_property
    def _engine(self) -> Engine:
        return TorchEngine(module_of(self._extractor))
