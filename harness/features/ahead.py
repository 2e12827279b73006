"""Reading images while the engine is being built: one core translates, the others decode."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from harness.data import Sample
from harness.features.inputs import scale
from harness.features.recipe import Recipe

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
