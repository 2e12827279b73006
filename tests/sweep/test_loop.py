"""Handing out tasks: what happens to one of them stays with it."""

from __future__ import annotations

from concurrent.futures import Future

from harness.config import TrackingConfig
from harness.record import Outcome
from harness.sweep.task import Task
from harness.sweep.workers import run_tasks


class Crowded:
    """Does tasks at once, but cannot begin the first."""

    size = 2

    def __init__(self):
        self.begun = 0

    def submit(self, task):
        self.begun += 1
        if self.begun == 1:
            raise OSError("no space left on device")
        done = Future()
        done.set_result(Outcome(str(task.job), "finished"))
        return done

    def stop(self):
        raise AssertionError("nothing is running")


def test_task_that_cannot_begin_has_failed_and_the_others_go_on(job, tmp_path):
    pool = Crowded()
    tasks = [Task(job, TrackingConfig(kind="none"), tmp_path / str(number)) for number in range(3)]
    ends = dict(run_tasks(tasks, pool))
    assert [ends[number].status for number in range(3)] == ["failed", "finished", "finished"]
    assert ends[0].reason == "OSError: no space left on device"
    assert "OSError: no space left on device\n" in (tmp_path / "0" / "job.log").read_text()
