"""How many threads a process may use, where several share a machine, and a map over threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available() -> int:
    """Return how many threads this process should compute with.

    `OMP_NUM_THREADS` says it, as for the libraries below; else the cores it may use.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else cores()


def cores(_root: Path = Path("/")) -> int:
    """Return how many cores this process may use.

    Those that it may run on or, where its control groups allow it less time, so many as that time
    keeps busy, rounded up.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_quotas(_root)])))


@contextmanager
def shared(workers: int) -> Iterator[None]:
    """Start processes in this block: each gets its share of the threads of this process.

    >>> with shared(10**6):
    ...     os.environ["OMP_NUM_THREADS"]
    '1'
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, str(max(1, available() // workers))))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def one_blas_thread() -> AbstractContextManager:
    """Let linear algebra compute on one thread in this block.

    How a sum is split over threads decides its last bit; and the many small products of a model
    lose more to threads than they gain, several times over where two libraries bring a BLAS each.
    """
    return threadpool_limits(1, user_api="blas")


def parallel_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Iterator[_Result]:
    """Map in threads, in order, with never more than two items per thread under way."""
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, innermost first, if there are any.

    `controller` is `cpu` or `memory`; `proc` and `sys` are mounted below `root`. The groups of both
    versions are yielded; their files differ in name.
    """
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                yield from _up(mounted, group)
            elif controller in controllers.split(","):
                yield from _up(mounted / controller, group)


def _quotas(root: Path) -> Iterator[float]:
    """Yield how many cores each control group allows, of either version."""
    for folder in group_folders(root, "cpu"):
        with suppress(OSError, ValueError):  # no such limit, or `max`
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError):
            quota = (folder / "cpu.cfs_quota_us").read_text()
            if int(quota) > 0:  # -1 is no limit
                yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())


def _up(mounted: Path, group: str) -> Iterator[Path]:
    # A container may see no more than its own group, as the mounted folder.
    place = mounted / group.lstrip("/")
    yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(mounted))
