"""Features of samples, from the cache where they are there, else extracted and cached."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.config import BackboneConfig, FeaturesConfig, all_stages
from harness.data import Sample
from harness.data.images import USUAL, Decoding
from harness.features.engines import Engine, build_engine
from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import MAPS, POOLED, Store, maps_of, prune
from harness.features.settings import check_numbers
from harness.features.spec import ExtractionSpec, extraction_spec
from harness.system.threads import available, parallel_map

_DEFAULTS = FeaturesConfig()
# Bytes of pooled features held in memory: all of MVTec AD's at 2,048 dimensions.
_RECENT = 64 * 2**20

log = logging.getLogger(__name__)


class Features(NamedTuple):
    """The features of one image, in float32.

    Pooled (D,), the feature map (D, h, w), and the maps (channels, h, w) of the further layers that
    the reader was made for.
    """

    pooled: NDArray[np.float32]
    feature_map: NDArray[np.float32]
    layer_maps: tuple[NDArray[np.float32], ...] = ()


@dataclass
class _Extracted:
    """Pooled features of a batch by image digest, and the samples others are computing."""

    pooled: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    n_computed: int = 0
    busy: list[Sample] = field(default_factory=list)


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
        check_numbers(workers=settings.workers, cache_limit_gb=settings.cache_limit_gb)
        self.spec = extraction_spec(
            extractor,
            image_size=image_size,
            settings=settings,
            center_crop=center_crop,
            decoding=decoding,
        )
        self.n_extracted = 0
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
        self._recent = RecentFeatures(_RECENT)

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
            Not to be written to: whoever asks for the same samples next may get the same array.

        Raises
        ------
        DataError
            If an image cannot be decoded, or is not the one that was listed any more.
        """
        values = self._recent.find(samples)
        if values is None:
            values = self._gather(samples, maps=maps and self._settings.maps)
            self._recent.keep(samples, values)
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
        yield from (one for (one,) in self._maps(samples, (MAPS,)))

    def layer_maps(
        self, samples: Sequence[Sample], layers: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Yield the maps (channels, h, w) of some of `map_layers` for each sample, as `maps`."""
        return self._maps(samples, tuple(map(maps_of, layers)))

    def keep_layer_maps(
        self, samples: Sequence[Sample], layers: Sequence[str], *, maps: bool
    ) -> None:
        """Extract what the cache lacks of what `layer_maps` yields, as far as it keeps maps.

        `maps` is as `pooled` takes it.
        """
        if self._settings.maps:
            kinds = tuple(map(maps_of, layers))
            self._cache_maps(samples, (*kinds, MAPS) if maps else kinds)
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
        found = zip(*self._engine(images), strict=True)
        features = [Features(one[0], one[1], tuple(one[2:])) for one in found]
        return [errors.get(k, one) for k, (_, one) in enumerate(zip(paths, features, strict=False))]

    def prepare(self) -> None:
        """Load the backbone now, which threads that compute side by side must not do each."""
        _ = self._engine

    def forget(self) -> None:
        """Let go of the pooled features that are held in memory; the cache keeps its own."""
        self._recent = RecentFeatures(_RECENT)

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

    def _gather(self, samples: Sequence[Sample], *, maps: bool) -> NDArray[np.float32]:
        """Copy rows into one array as they come: kept, each would hold its batch in memory."""
        places = defaultdict(list)
        for k, sample in enumerate(samples):
            places[sample.digest].append(k)
        values = np.empty((len(samples), 0), dtype=np.float32)
        for digest, row in self._rows(samples, maps=maps):
            if not values.size:
                values = np.empty((len(samples), row.size), dtype=np.float32)
            values[places[digest]] = row
        self._evict()
        return values

    def _rows(
        self, samples: Sequence[Sample], *, maps: bool
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield digest and pooled features of each image, from the cache or else extracted."""
        missing = []
        for sample in _distinct(samples):
            pooled = self._store.read(sample.digest, POOLED)
            if pooled is None:
                missing.append(sample)
            else:
                yield sample.digest, pooled
        yield from self._extract(missing, maps=maps)

    def _maps(
        self, samples: Sequence[Sample], kinds: tuple[str, ...]
    ) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Yield the maps of some kinds for each sample, one sample at a time."""
        if not self._settings.maps:
            yield from self._fresh_maps(samples, kinds)
            return
        self._cache_maps(samples, kinds)
        try:
            # Several at once: their checksums take longer than reading them.
            cached = parallel_map(partial(self._cached, kinds=kinds), samples, self.workers)
            for sample, found in zip(samples, cached, strict=True):
                yield self._lost(sample, kinds) if found is None else found
        finally:
            self._evict()

    def _cache_maps(self, samples: Sequence[Sample], kinds: tuple[str, ...]) -> None:
        missing = [sample for sample in _distinct(samples) if not self._has(sample, kinds)]
        for _ in self._extract(missing, maps=MAPS in kinds):
            pass

    def _has(self, sample: Sample, kinds: Iterable[str]) -> bool:
        return all(self._store.has(sample.digest, kind) for kind in kinds)

    def _cached(
        self, sample: Sample, kinds: tuple[str, ...]
    ) -> tuple[NDArray[np.float32], ...] | None:
        found = [self._store.read(sample.digest, kind) for kind in kinds]
        whole = tuple(one for one in found if one is not None)
        return whole if len(whole) == len(kinds) else None

    def _lost(self, sample: Sample, kinds: tuple[str, ...]) -> tuple[NDArray[np.float32], ...]:
        """Make maps of which one is damaged, or was evicted meanwhile."""
        self._cache_maps([sample], kinds)
        found = self._cached(sample, kinds)
        # Another process's eviction may take it as soon as it is written.
        return next(self._fresh_maps([sample], kinds)) if found is None else found

    def _fresh_maps(
        self, samples: Sequence[Sample], kinds: tuple[str, ...]
    ) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Compute the maps without the cache."""
        self.prepare()
        parts = _batches(samples, self.spec.batch)
        for batch in parallel_map(self._compute_all, parts, self.workers):
            for features in batch:
                self.n_extracted += 1
                maps = self._named_maps(features)
                yield tuple(maps[kind] for kind in kinds)

    def _named_maps(self, features: Features) -> dict[str, NDArray[np.float32]]:
        """Return all maps of an image by kind."""
        layers = map(maps_of, self._map_layers)
        own = dict(zip(layers, features.layer_maps, strict=True))
        return {MAPS: features.feature_map} | own

    def _kept_kinds(self, *, maps: bool) -> list[str]:
        """List the kinds of maps that an extraction writes; `maps` is as `pooled` takes it."""
        layers = self._map_layers if self._settings.maps else ()
        return [MAPS] * maps + [*map(maps_of, layers)]

    def _extract(
        self, samples: list[Sample], *, maps: bool
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Compute and cache what is missing; yield digest and pooled features of each image."""
        if not samples:
            return
        started = time.perf_counter()
        self.prepare()
        busy = samples
        for wait, size in ((False, self.spec.batch), (True, 1)):
            parts, busy = _batches(busy, size), []
            extract = partial(self._extract_batch, maps=maps, wait=wait)
            for result in parallel_map(extract, parts, self.workers):
                busy += result.busy
                self.n_extracted += result.n_computed
                yield from result.pooled.items()
        self._has_grown = True
        seconds = time.perf_counter() - started
        log.info("%d images by %s in %.1f s", len(samples), self.spec.engine, seconds)

    def _extract_batch(self, batch: Sequence[Sample], *, maps: bool, wait: bool) -> _Extracted:
        """Extract what no other process has locked, or else wait for it."""
        result, todo = _Extracted(), []
        with ExitStack() as locks:
            for sample in batch:
                if not locks.enter_context(self._store.lock(sample.digest, wait=wait)):
                    result.busy.append(sample)
                elif (pooled := self._finished(sample, maps=maps)) is not None:
                    result.pooled[sample.digest] = pooled
                else:
                    todo.append(sample)
            for sample, features in zip(todo, self._compute_all(todo), strict=True):
                found = self._named_maps(features)
                for kind in self._kept_kinds(maps=maps):
                    self._store.write(sample.digest, kind, found[kind])
                self._store.write(sample.digest, POOLED, features.pooled)
                result.pooled[sample.digest] = features.pooled
            result.n_computed = len(todo)
        return result

    def _finished(self, sample: Sample, *, maps: bool) -> NDArray[np.float32] | None:
        """Return what another process may have stored since we looked."""
        if not self._has(sample, self._kept_kinds(maps=maps)):
            return None
        return self._store.read(sample.digest, POOLED)

    def _compute_all(self, samples: Sequence[Sample]) -> list[Features]:
        """Compute the features of one batch; raise the first error."""
        if not samples:
            return []
        found = []
        for one in self.compute([s.path for s in samples], [s.digest for s in samples]):
            if isinstance(one, Exception):
                raise one
            found.append(one)
        return found

    def _evict(self) -> None:
        limit = self._settings.cache_limit_gb
        if self._has_grown and limit is not None:
            prune(self._cache, limit=int(limit * 1e9))
            self._has_grown = False


class RecentFeatures:
    """Holds pooled features in memory, up to a number of bytes; the oldest ones go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def find(self, samples: Sequence[Sample]) -> NDArray[np.float32] | None:
        """Return the pooled features (n, D) of these samples in this order, if they are held."""
        key = tuple(sample.digest for sample in samples)
        values = self._arrays.pop(key, None)
        if values is not None:
            self._arrays[key] = values  # the youngest now
        return values

    def keep(self, samples: Sequence[Sample], values: NDArray[np.float32]) -> None:
        """Hold pooled features (n, D), which nobody may write to from now on."""
        values.flags.writeable = False
        self._arrays[tuple(sample.digest for sample in samples)] = values
        while sum(array.nbytes for array in self._arrays.values()) > self._limit:
            del self._arrays[next(iter(self._arrays))]


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


def _distinct(samples: Sequence[Sample]) -> Iterable[Sample]:
    return {sample.digest: sample for sample in samples}.values()


def _batches(items: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Cut into batches; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
