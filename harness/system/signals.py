"""Graceful shutdown on Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_ONCE = 3
"""How many signals of any kind end the process at once."""
PATIENCE = 5.0
"""Seconds for which a signal is deferred at most: a server may hang for longer."""


class Interrupted(SystemExit):
    """The process was asked to end by a signal; uncaught, it ends with that number plus 128.

    Examples
    --------
    >>> str(Interrupted(15)), Interrupted(15).code
    ('interrupted by SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.number).name}"


@dataclass
class _State:
    """What to do with a signal; the main thread alone reads and writes it.

    Masking signals would not defer them: any other thread takes them.
    """

    holds: int = 0
    pending: int | None = None
    ending: bool = False
    last: bool = False
    received: int = 0


_state = _State()


@contextmanager
def interruptible(*, last: bool = False) -> Iterator[None]:
    """Let the first signal raise `Interrupted` inside the block.

    Further ones are ignored until the outermost block ends, for the process is closing what it has
    opened. If the process ends with the block (`last`), a third signal ends it at once, as if it
    were not handled, for a library may have swallowed the first; and after a signal this goes on,
    so that a second one does not interrupt the interpreter's clean-up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # `nohup` ignores SIGHUP, and means it.
    numbers = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _give_up)
    if last:
        _state.last = True
        atexit.register(_ignore_ctrl_c)  # runs after those of libraries, which are imported later
    try:
        yield
    finally:
        if not (last and _state.ending):
            for number, handler in before.items():
                signal.signal(number, handler)
            if _interrupt not in before.values():
                _state.ending, _state.last, _state.received = False, False, 0


def ending() -> bool:
    """Return whether this process has been asked to end."""
    return _state.ending


@contextmanager
def deferred() -> Iterator[None]:
    """Defer signals until the block ends, so that nothing is left half-written.

    A block that takes longer than `PATIENCE` from the signal on is interrupted all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.holds += 1
    try:
        yield
    finally:
        _state.holds -= 1
        if not _state.holds and _state.pending is not None:
            _end(_state.pending)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _state.received += 1
    if _state.received >= _AT_ONCE and _state.last:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if _state.ending or _state.pending is not None:
        return
    if not _state.holds:
        _end(number)
    _state.pending = number
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def _ignore_ctrl_c() -> None:
    """Let the interpreter clean up, which takes a second and handles no signals."""
    if _state.ending:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    if _state.pending is not None:
        _end(_state.pending)


def _end(number: int) -> None:
    _state.pending, _state.ending = None, True
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise Interrupted(number)
