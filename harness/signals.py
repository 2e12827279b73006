"""Ctrl-C and SIGTERM: they end the work in an orderly way, at a moment of our choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """The process was asked to end; uncaught, it ends with the customary exit status.

    Parameters
    ----------
    number : int
        The signal; the exit status is 128 more.

    Examples
    --------
    >>> str(Interrupted(15)), Interrupted(15).code
    ('interrupted by SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        """Make copies for other processes from the signal, not from the exit status."""
        return type(self), (self.number,)

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.number).name}"


@contextmanager
def interruptible() -> Iterator[None]:
    """Let either signal raise `Interrupted` inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold both signals back until the block ends: what it writes is not left half-written."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)
