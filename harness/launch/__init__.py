"""Who does the tasks of a sweep: this process, other processes, or a cluster's queue."""

from harness.launch.in_process import InProcess
from harness.launch.loop import Pending, Pool, WorkerDiedError, run_tasks
from harness.launch.processes import Processes
from harness.launch.queues import LocalQueue

__all__ = [
    "InProcess",
    "LocalQueue",
    "Pending",
    "Pool",
    "Processes",
    "WorkerDiedError",
    "run_tasks",
]
