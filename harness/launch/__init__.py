"""Who does the tasks of a sweep: this process, other processes, or a cluster's queue."""

from harness.launch.loop import InProcess, Pending, Pool, WorkerDiedError, run_tasks
from harness.launch.processes import Processes

__all__ = ["InProcess", "Pending", "Pool", "Processes", "WorkerDiedError", "run_tasks"]
