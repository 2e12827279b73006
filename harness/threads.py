"""How many threads a process may use, where several processes share a machine."""

from __future__ import annotations

import os

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available() -> int:
    """Return how many threads this process should compute with.

    `OMP_NUM_THREADS` says it, as for the libraries below; else the cores it may run on.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else cores()


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int) -> dict[str, str]:
    """Return the environment of one of several workers that divide the cores among them.

    Examples
    --------
    >>> share(10**6)["OMP_NUM_THREADS"]
    '1'
    """
    return dict.fromkeys(_VARIABLES, str(max(1, cores() // workers)))
