"""Who does the tasks of a sweep: this process, several processes, or a cluster's queue."""

from harness.launch.in_process import InProcess
from harness.launch.loop import Pending, Pool, run_tasks
from harness.launch.processes import Processes
from harness.launch.queues import Queue, local_queue, slurm_queue

__all__ = [
    "InProcess",
    "Pending",
    "Pool",
    "Processes",
    "Queue",
    "local_queue",
    "run_tasks",
    "slurm_queue",
]
