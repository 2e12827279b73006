"""A worker whose start, or whose task, ends it in the way that a name says."""

from __future__ import annotations

import os
import signal
import sys
import time

from harness.record import Outcome
from harness.sweep import workers
from harness.system.signals import interruptible


def be_interrupted():
    with interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def lack_a_module():
    raise ModuleNotFoundError("No module named 'timm'")


WAYS = {
    "finished": lambda: None,
    "module_missing": lack_a_module,
    "os_exit": lambda: os._exit(3),
    "sys_exit": lambda: sys.exit(3),
    "sys_exit_with_words": lambda: sys.exit("no licence"),
    "interrupted": be_interrupted,
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "aborted": os.abort,
    "nameless_signal": lambda: os.kill(os.getpid(), signal.SIGRTMIN + 6),
}


def serve(pipe, parent):
    """Serve without what takes seconds; `$STARTS` gets a line for each start."""
    with open(os.environ["STARTS"], "a") as file:
        file.write("started\n")
    workers.read_shared_code = WAYS[os.environ["AT_START"]]
    workers.import_module = lambda name: None
    workers.import_mlflow = lambda: None
    workers.perform = _perform
    workers._serve(pipe, parent)


def _perform(task, stages):
    with stages("data"):
        WAYS[task.folder.name]()
    return Outcome(task.folder.name, "finished")
