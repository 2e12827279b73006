"""Pooled features that were asked for last: the next job of a sweep mostly wants the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data import Sample


class RecentFeatures:
    """Holds pooled features in memory, and lets go of the oldest ones.

    Parameters
    ----------
    limit : int
        How many bytes it holds at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def find(self, samples: Sequence[Sample]) -> NDArray[np.float32] | None:
        """Return the pooled features of these samples in this order, if they are held.

        Returns
        -------
        ndarray of shape (n, D), float32, or None
        """
        key = _key(samples)
        values = self._arrays.pop(key, None)
        if values is not None:
            self._arrays[key] = values  # the youngest now
        return values

    def keep(self, samples: Sequence[Sample], values: NDArray[np.float32]) -> None:
        """Hold pooled features (n, D), which nobody may write to from now on."""
        values.flags.writeable = False
        self._arrays[_key(samples)] = values
        while sum(array.nbytes for array in self._arrays.values()) > self._limit:
            del self._arrays[next(iter(self._arrays))]


def _key(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(sample.digest for sample in samples)
