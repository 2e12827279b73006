"""Named random streams: adding one draw to the harness moves no other."""

from __future__ import annotations

import hashlib

import numpy as np

from harness.data.errors import DataError


def random_stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a stream's name.

    Parameters
    ----------
    seed : int
        The job's seed, at least 0.
    name : str
        What the numbers are drawn for: `n_train/bottle`.

    Returns
    -------
    numpy.random.Generator
        Independent of the generator of any other seed or name.

    Raises
    ------
    DataError
        If the seed is negative.

    Examples
    --------
    >>> int(random_stream(42, "n_train/bottle").integers(1000))
    28
    >>> int(random_stream(42, "n_train/cable").integers(1000))
    398
    """
    if seed < 0:
        raise DataError(f"seed must be at least 0, got {seed}")
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))
