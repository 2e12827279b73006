"""Signals end the work once, and not in the middle of what must be written as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness.system import signals
from harness.system.signals import Interrupted, deferred, interruptible

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def another_thread():
    """A thread that would take what the main thread blocks."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    yield
    ended.set()
    thread.join()


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def interrupted(work):
    """Do the work, which a signal must end, and return the exception."""
    with pytest.raises(Interrupted) as caught, interruptible():
        work()
    return caught.value


@pytest.mark.parametrize("number", ALL)
def test_signal_interrupts_with_the_customary_status(number):
    before = signal.getsignal(number)
    assert interrupted(lambda: send(number)).code == 128 + number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", ALL)
def test_signal_waits_for_the_outermost_block_whatever_threads_there_are(another_thread, number):
    written = []

    def work():
        with deferred():
            with deferred():
                send(number)
                written.append("inner")
            written.append("outer")
        written.append("after")

    interrupted(work)
    assert written == ["inner", "outer"]


def test_further_signals_keep_nothing_from_being_closed(another_thread):
    closed = []

    def work():
        try:
            send(signal.SIGINT)
        except Interrupted:
            send(signal.SIGTERM)
            closed.append("inner")
            raise

    with interruptible():
        assert interrupted(work).number == signal.SIGINT
        send(signal.SIGTERM)
        closed.append("outer")
    assert closed == ["inner", "outer"]
    interrupted(lambda: send(signal.SIGTERM))


def test_block_that_hangs_is_broken_off(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    started = time.monotonic()

    def work():
        with deferred():
            send(signal.SIGTERM)
            time.sleep(60)

    interrupted(work)
    assert time.monotonic() - started < 30
    with interruptible(), deferred():  # nothing is left over
        time.sleep(0.4)


def test_fault_in_a_block_does_not_swallow_the_signal():
    def work():
        with deferred():
            send(signal.SIGTERM)
            raise ValueError

    interrupted(work)


def test_nohup_is_obeyed():
    code = (
        "import os, signal; from harness.system.signals import interruptible\n"
        "with interruptible(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('still here')"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "still here\n", done.stderr


@pytest.mark.parametrize("last", [True, False])
def test_after_the_last_block_ctrl_c_disturbs_nothing(last):
    code = (
        "import atexit, os, signal; from harness.system.signals import interruptible\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in the foreground
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        f"with interruptible(last={last}): os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ("KeyboardInterrupt" in done.stderr) != last
    assert not last or done.returncode == 143


SWALLOWING = """
import os, signal, sys, time
from contextlib import ExitStack
from harness.system.signals import deferred, interruptible
with interruptible(last=True), interruptible(), deferred() if {deferred} else ExitStack():
    for name in {names}:
        try:
            os.kill(os.getpid(), signal.Signals[name])
        except BaseException:
            pass
        print(name, flush=True)
"""


def swallowing(*names, deferred=False):
    """Send itself signals in a process that swallows what they raise."""
    code = SWALLOWING.format(names=names, deferred=deferred)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("number", ALL)
def test_third_signal_ends_at_once_with_its_own_status(number, deferred):
    two = ("SIGTERM", "SIGINT")
    assert swallowing(*two, number.name, deferred=deferred) == (-number, [*two])


def test_two_signals_end_nothing_that_swallows_them():
    assert swallowing("SIGINT", "SIGINT") == (0, ["SIGINT", "SIGINT"])


def test_third_signal_ends_what_is_cleared_up_after_the_last_block():
    code = (
        "import atexit, os, signal; from harness.system.signals import interruptible\n"
        "with interruptible(last=True):\n"
        "    atexit.register(print, 'not reached')\n"
        "    atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "    atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_second_signal_does_not_end_the_interpreter_that_is_taken_apart():
    """When Python has given up its handlers already."""
    code = (
        "import os, signal; from harness.system.signals import interruptible\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):\n"
        "        kill(own, number)\n"
        "late = Late()\n"
        "with interruptible(last=True): os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


def test_worker_counts_no_signals():
    """The terminal and its parent send it some that are not meant to be the third."""

    def work():
        try:
            send(signal.SIGINT)
        finally:
            for _ in range(5):
                send(signal.SIGTERM)

    assert interrupted(work).number == signal.SIGINT
