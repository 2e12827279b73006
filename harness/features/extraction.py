"""From image files to stored features: reading and computing side by side, each image once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.data import Sample
from harness.features.engines import Engine
from harness.features.feature_cache import MAPS, POOLED, FeatureStore
from harness.features.inputs import scale
from harness.features.spec import Recipe
from harness.system.threads import parallel_map

LIMIT = 32_000_000
"""Bytes of pixels above which no further image is read ahead."""


class Inputs:
    """The inputs of images, the first of them read ahead of time.

    Parameters
    ----------
    recipe : Recipe
        How an image is read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._pixels: dict[str, NDArray] = {}
        self._n_bytes = 0

    @contextmanager
    def read_ahead(self, samples: Sequence[Sample], *, threads: int) -> Iterator[None]:
        """Read images in other threads for as long as the block lasts.

        No image is claimed: whoever claims one later takes its pixels or lets them be.

        Parameters
        ----------
        samples : sequence of Sample
            Images, in the order in which they will be taken.
        threads : int
            How many threads read; with none nothing is read ahead.
        """
        queue, ended = iter(samples), Event()
        readers = [Thread(target=self._read, args=(queue, ended)) for _ in range(threads)]
        for reader in readers:
            reader.start()
        try:
            with _frequent_switches():
                yield
        finally:
            ended.set()
            for reader in readers:
                reader.join()

    def take(self, sample: Sample) -> NDArray[np.float32]:
        """Return the input of an image and forget it.

        Returns
        -------
        ndarray of shape (3, H, W), float32
            The same bits, whether the image was read ahead or is read now.

        Raises
        ------
        DataError
            If the image cannot be decoded, or is not the one that was listed any more.
        """
        pixels = self._pixels.pop(sample.digest, None)
        if pixels is not None:
            return scale(pixels)
        return self._recipe.read(sample.path, sample.digest)

    def _read(self, queue: Iterator[Sample], ended: Event) -> None:
        for sample in queue:
            if ended.is_set() or self._n_bytes >= LIMIT:
                return
            with suppress(ValueError, OSError):  # raised when the image's turn comes
                pixels = self._recipe.read_pixels(sample.path, sample.digest)
                self._pixels[sample.digest] = pixels
                self._n_bytes += pixels.nbytes


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let readers have the interpreter at once: they ask for it often and hold it briefly.

    Whoever translates a network holds it for the whole interval each time; at the usual 5 ms a
    reader does half of what it could.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


_Item = TypeVar("_Item")


@dataclass
class Extracted:
    """What became of some samples.

    Attributes
    ----------
    pooled : dict of str to ndarray of shape (D,)
        The pooled features by image digest.
    n_computed : int
        How many of them went through the backbone just now.
    busy : list of Sample
        Samples that another process is computing.
    """

    pooled: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    n_computed: int = 0
    busy: list[Sample] = field(default_factory=list)


class PooledRows:
    """Gathers the pooled features of samples in one array, in their order.

    Rows kept as they come would hold on to the memory of the batches they were computed in, and
    be there twice once they are put together.

    Parameters
    ----------
    samples : sequence of Sample
        The images; some may be equal.

    Attributes
    ----------
    values : ndarray of shape (n, D)
        The rows; D is 0 before the first one is put in.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.values = np.empty((len(samples), 0), dtype=np.float32)
        self._places: dict[str, list[int]] = {}
        for k, sample in enumerate(samples):
            self._places.setdefault(sample.digest, []).append(k)

    def put(self, digest: str, row: NDArray[np.float32]) -> None:
        """Copy the row of an image, of shape (D,), to every place where it belongs."""
        if not self.values.size:
            self.values = np.empty((len(self.values), row.size), dtype=np.float32)
        self.values[self._places[digest]] = row


@dataclass(frozen=True)
class Extraction:
    """Computes features and stores them.

    Attributes
    ----------
    engine : Engine
        Runs the backbone.
    store : FeatureStore
        Where features go.
    inputs : Inputs
        Where the images come from.
    maps : bool
        Whether to store feature maps too.
    """

    engine: Engine
    store: FeatureStore
    inputs: Inputs
    maps: bool

    def run(self, samples: Sequence[Sample], *, workers: int) -> Iterator[Extracted]:
        """Extract samples of distinct content; the results come in batches."""
        busy: list[Sample] = []
        for result in parallel_map(self._go_on, batches(samples, self._recipe.batch), workers):
            busy += result.busy
            yield result
        yield from parallel_map(self._wait, batches(busy, 1), workers)

    @property
    def _recipe(self) -> Recipe:
        return self.store.recipe

    def _go_on(self, batch: Sequence[Sample]) -> Extracted:
        return self._batch(batch, wait=False)

    def _wait(self, batch: Sequence[Sample]) -> Extracted:
        return self._batch(batch, wait=True)

    def _batch(self, batch: Sequence[Sample], *, wait: bool) -> Extracted:
        result, todo = Extracted(), []
        with ExitStack() as claims:
            for sample in batch:
                if not claims.enter_context(self.store.claim(sample.digest, wait=wait)):
                    result.busy.append(sample)
                elif (pooled := self._finished(sample)) is not None:
                    result.pooled[sample.digest] = pooled
                else:
                    todo.append(sample)
            result.pooled |= self._compute(todo)
            result.n_computed = len(todo)
        return result

    def _finished(self, sample: Sample) -> NDArray[np.float32] | None:
        """Return what another process may have stored since we looked."""
        if self.maps and not self.store.has(sample.digest, MAPS):
            return None
        return self.store.read(sample.digest, POOLED)

    def _compute(self, samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
        if not samples:
            return {}
        images = np.zeros(self._recipe.shape, dtype=np.float32)
        for k, sample in enumerate(samples):
            images[k] = self.inputs.take(sample)
        pooled, feature_maps = self.engine(images)
        for k, sample in enumerate(samples):
            if self.maps:
                self.store.write(sample.digest, MAPS, feature_maps[k])
            self.store.write(sample.digest, POOLED, pooled[k])
        return {sample.digest: pooled[k] for k, sample in enumerate(samples)}


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Cut into batches; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
