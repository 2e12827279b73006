"""Features of samples, from the cache where they are there, else extracted and cached."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from harness.config import BackboneConfig, FeaturesConfig, all_stages
from harness.data import Sample
from harness.data.images import USUAL, Decoding
from harness.features.engines import Engine, build_engine
from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import MAPS, POOLED, Store, maps_of, prune
from harness.features.spec import ExtractionSpec, extraction_spec
from harness.system.threads import available, parallel_map

_DEFAULTS = FeaturesConfig()

log = logging.getLogger(__name__)


Features = dict[str, NDArray[np.float32]]
"""Of one image, by kind: pooled (D,), the feature map (D, h, w), the maps of further layers."""


class FeatureReader:
    """Reads pooled features and feature maps of samples.

    Parameters
    ----------
    extractor : LazyExtractor
        The feature extractor, built only when a feature is not in the cache.
    image_size : int
        Height and width in pixels to which images are resized.
    cache : path-like, optional
        Where features are kept; None keeps them in a temporary folder, as long as the reader
        lives.
    settings : FeaturesConfig
        How features are extracted.
    center_crop : int, optional
        Side in pixels of the central square of the resized image that the backbone sees; None
        for the whole image.
    decoding : Decoding
        How image files are decoded.
    map_layers : sequence of str
        Further layers of the network: the same forward pass gives their maps too, which are kept
        in the cache as `features.maps` says.

    Attributes
    ----------
    spec : ExtractionSpec
        What determines the pooled features besides the images, every `auto` resolved. The maps of
        stages are kept in its section of the cache, for the pass that writes them changes no bit;
        those of other layers, and what their pass pools, have a section of their own.
    n_extracted : int
        Number of images that went through the backbone so far.
    outdated : bool
        Whether the network turned out to be another one than the spec says.

    Raises
    ------
    ValueError
        If a setting is none of its choices, or cannot be honoured here.
    """

    def __init__(
        self,
        extractor: LazyExtractor,
        *,
        image_size: int,
        cache: str | Path | None,
        settings: FeaturesConfig = _DEFAULTS,
        center_crop: int | None = None,
        decoding: Decoding = USUAL,
        map_layers: Sequence[str] = (),
    ) -> None:
        self.spec = extraction_spec(
            extractor,
            image_size=image_size,
            settings=settings,
            center_crop=center_crop,
            decoding=decoding,
        )
        self.n_extracted = 0
        self._counting = Lock()
        self._extractor = extractor
        self._whole = extractor.with_maps(map_layers) if map_layers else extractor
        self._map_layers = tuple(map_layers)
        self._settings = settings
        self._has_grown = False
        if cache is None:
            cache = tempfile.mkdtemp(prefix="features-")
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self._cache = Path(cache)
        shared = all_stages(map_layers)
        self._store = Store(self._cache, self.spec if shared else self.spec_with(map_layers))

    def pooled(self, samples: Sequence[Sample], *, maps: bool = True) -> NDArray[np.float32]:
        """Return the pooled features of the samples, in their order.

        Parameters
        ----------
        samples : sequence of Sample
            At least one.
        maps : bool
            Whether the feature maps will be asked for too, and so are worth keeping.

        Returns
        -------
        ndarray of shape (n, D), float32

        Raises
        ------
        DataError
            If an image cannot be decoded, or is not the one that was listed any more.
        """
        values = np.empty((len(samples), 0), dtype=np.float32)
        # Copied as they come: kept, each would hold its batch in memory.
        for k, features in enumerate(self._read(samples, (POOLED,), maps=maps)):
            if not k:
                values = np.empty((len(samples), features[POOLED].size), dtype=np.float32)
            values[k] = features[POOLED]
        return values

    def maps(self, samples: Sequence[Sample]) -> Iterator[NDArray[np.float32]]:
        """Yield the feature map of each sample, in their order, one at a time.

        With `features.maps=false` none is kept, so that each is computed whenever asked for.

        Parameters
        ----------
        samples : sequence of Sample
            The images.

        Yields
        ------
        ndarray of shape (D, h, w), float32

        Raises
        ------
        DataError
            If an image cannot be decoded, or is not the one that was listed any more.
        """
        yield from (one[MAPS] for one in self._maps(samples, (MAPS,)))

    def layer_maps(
        self, samples: Sequence[Sample], layers: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Yield the maps (channels, h, w) of some of `map_layers` for each sample, as `maps`."""
        kinds = tuple(map(maps_of, layers))
        for one in self._maps(samples, kinds):
            yield tuple(one[kind] for kind in kinds)

    def keep_layer_maps(
        self, samples: Sequence[Sample], layers: Sequence[str], *, maps: bool
    ) -> None:
        """Extract what the cache lacks of what `layer_maps` yields, as far as it keeps maps.

        `maps` is as `pooled` takes it.
        """
        if self._settings.maps:
            self._extract(samples, (*map(maps_of, layers), *[MAPS] * maps), maps=maps)
            self._evict()

    def spec_with(self, layers: Sequence[str]) -> ExtractionSpec:
        """Return the spec of features that the maps of these layers, if any, belong to."""
        if not layers:
            return self.spec
        mine = tuple(layers) == self._map_layers
        whole = self._whole if mine else self._extractor.with_maps(layers)
        return replace(self.spec, network_digest=whole.digests(self.spec.shape).network)

    def compute(
        self, paths: Sequence[Path], digests: Sequence[str | None] | None = None
    ) -> list[Features | ValueError | OSError]:
        """Compute the features of image files; the cache is neither read nor written.

        Parameters
        ----------
        paths : sequence of Path
            At most as many image files as the spec has in a batch.
        digests : sequence of str, optional
            The SHA-256 that each file must have; by default nothing is known of them.

        Returns
        -------
        list of Features or Exception
            For each file its features, or why it has none.
        """
        images = np.zeros(self.spec.shape, dtype=np.float32)
        errors: dict[int, ValueError | OSError] = {}
        digests = [None] * len(paths) if digests is None else digests
        for k, (path, digest) in enumerate(zip(paths, digests, strict=True)):
            try:
                images[k] = self.spec.read(path, digest)
            except (ValueError, OSError) as error:
                errors[k] = error
        kinds = (POOLED, MAPS, *map(maps_of, self._map_layers))
        found = (
            dict(zip(kinds, one, strict=True)) for one in zip(*self._engine(images), strict=True)
        )
        return [errors.get(k, one) for k, (_, one) in enumerate(zip(paths, found, strict=False))]

    def prepare(self) -> None:
        """Load the backbone now, which threads that compute side by side must not do each."""
        _ = self._engine

    @property
    def outdated(self) -> bool:
        """Whether the network turned out to be another one than the spec says."""
        return self._extractor.outdated or self._whole.outdated

    @property
    def workers(self) -> int:
        """Number of threads that read and compute."""
        return self._settings.workers or available()

    @cached_property
    def _engine(self) -> Engine:
        spec = self.spec_with(self._map_layers)
        return build_engine(self._whole, spec, cache=self._cache, workers=self.workers)

    def _maps(self, samples: Sequence[Sample], kinds: Sequence[str]) -> Iterator[Features]:
        """Yield the maps of these kinds of each sample: those that the cache keeps, or new ones."""
        if self._settings.maps:
            yield from self._read(samples, kinds, maps=MAPS in kinds)
            return
        self.prepare()
        batches = _batches(samples, self.spec.batch)
        for batch in parallel_map(self._computed, batches, self.workers):
            yield from batch

    def _read(
        self, samples: Sequence[Sample], kinds: Sequence[str], *, maps: bool
    ) -> Iterator[Features]:
        """Yield what the cache has of these kinds for each sample, once it has been extracted."""
        self._extract(samples, kinds, maps=maps)
        cached = partial(self._cached, kinds=kinds)
        # Maps several at once: their checksums take longer than reading them.
        small = kinds == (POOLED,)
        found = map(cached, samples) if small else parallel_map(cached, samples, self.workers)
        try:
            for sample, features in zip(samples, found, strict=True):
                # An entry may be damaged, or evicted meanwhile.
                yield features or self._extract_batch([sample], maps=maps, wait=True)[0]
        finally:
            self._evict()

    def _cached(self, sample: Sample, kinds: Sequence[str]) -> Features:
        """Return what the cache has of an image; nothing if it lacks one of the kinds."""
        found = {kind: self._store.read(sample.digest, kind) for kind in kinds}
        features = {kind: one for kind, one in found.items() if one is not None}
        return features if len(features) == len(kinds) else {}

    def _extract(self, samples: Sequence[Sample], kinds: Sequence[str], *, maps: bool) -> None:
        """Compute and cache what the cache lacks of these kinds; `maps` is as `pooled` takes it."""
        lacking = {
            one.digest: one
            for one in samples
            if not all(self._store.has(one.digest, kind) for kind in kinds)
        }
        if not lacking:
            return
        started = time.perf_counter()
        self.prepare()
        busy = list(lacking.values())
        for wait, size in ((False, self.spec.batch), (True, 1)):
            extract = partial(self._extract_batch, maps=maps, wait=wait)
            left, busy = busy, []
            done = parallel_map(extract, _batches(left, size), self.workers)
            for batch, found in zip(_batches(left, size), done, strict=True):
                busy += [one for one, features in zip(batch, found, strict=True) if not features]
        seconds = time.perf_counter() - started
        log.info("%d images by %s in %.1f s", len(lacking), self.spec.engine, seconds)
        self._has_grown = True

    def _extract_batch(self, batch: Sequence[Sample], *, maps: bool, wait: bool) -> list[Features]:
        """Compute and cache images; wait for those that other processes have locked, or skip them.

        What another process has stored since we looked is returned as it is; of an image that is
        skipped, nothing.
        """
        found: dict[str, Features] = {}
        layers = self._map_layers if self._settings.maps else ()
        kinds = (POOLED, *map(maps_of, layers), *[MAPS] * (maps and self._settings.maps))
        with ExitStack() as locks:
            for sample in batch:
                if locks.enter_context(self._store.lock(sample.digest, wait=wait)):
                    found[sample.digest] = self._cached(sample, kinds)
            todo = [one for one in batch if found.get(one.digest) == {}]
            for sample, features in zip(todo, self._computed(todo), strict=True):
                for kind in kinds:
                    self._store.write(sample.digest, kind, features[kind])
                found[sample.digest] = features
        return [found.get(sample.digest, {}) for sample in batch]

    def _computed(self, samples: Sequence[Sample]) -> list[Features]:
        """Compute the features of one batch; raise the first error."""
        if not samples:
            return []
        found = []
        for one in self.compute([s.path for s in samples], [s.digest for s in samples]):
            if isinstance(one, Exception):
                raise one
            found.append(one)
        with self._counting:
            self.n_extracted += len(found)
        return found

    def _evict(self) -> None:
        limit = self._settings.cache_limit_gb
        if self._has_grown and limit is not None:
            prune(self._cache, limit=int(limit * 1e9))
            self._has_grown = False


_readers: dict[str, FeatureReader] = {}


def feature_reader(
    backbone: BackboneConfig,
    features: FeaturesConfig,
    *,
    image_size: int,
    center_crop: int | None = None,
    random_seed: int | None = None,
    decoding: Decoding = USUAL,
    map_layers: Sequence[str] = (),
) -> FeatureReader:
    """Return the reader of these settings; the same one for equal settings.

    Only the reader asked for last is kept: two backbones of a sweep need not fit into memory
    together. Nor is one whose network turned out to have changed on disk. `random_seed` is as
    `LazyExtractor` takes it.
    """
    seed = random_seed if backbone.random else None
    key = repr((backbone, features, image_size, center_crop, seed, decoding, map_layers))
    if key not in _readers or _readers[key].outdated:
        _readers.clear()
        _readers[key] = FeatureReader(
            LazyExtractor(backbone, cache=features.cache, random_seed=seed),
            image_size=image_size,
            cache=features.cache,
            settings=features,
            center_crop=center_crop,
            decoding=decoding,
            map_layers=map_layers,
        )
    return _readers[key]


def _batches(items: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Cut into batches; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
