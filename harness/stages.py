"""How long each stage of a job takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Stages:
    """A stopwatch for the stages of a job; `watch` is called with the name of each that begins.

    Examples
    --------
    >>> stages = Stages()
    >>> with stages("fit"):
    ...     pass
    >>> list(stages.seconds)
    ['fit']
    """

    def __init__(self, watch: Callable[[str], object] | None = None) -> None:
        self._watch = watch
        self.seconds: dict[str, float] = {}
        """Wall time of every stage so far, by name."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement under that name; repeated names add up."""
        if self._watch is not None:
            self._watch(name)
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        log.info("%s: %.3f s", name, elapsed)
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
