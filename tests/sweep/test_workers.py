"""How a worker ended: reported with its real status, and its traceback in the job's log."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from harness.config import TrackingConfig
from harness.sweep import workers
from harness.sweep.task import Task
from harness.sweep.workers import Processes, run_tasks
from tests.sweep import ends
from tests.sweep.conftest import LAUNCHERS, as_process

ENDED = "WorkerDiedError: the worker ended with status "
KILLED = "WorkerDiedError: the worker was killed by "
REASONS = {
    "os_exit": f"{ENDED}3; standard error may say why",
    "sys_exit": f"{ENDED}3: SystemExit: 3",
    "sys_exit_with_words": f"{ENDED}1: SystemExit: no licence",
    "module_missing": f"{ENDED}1: ModuleNotFoundError: No module named 'timm'",
    "interrupted": f"{ENDED}143: Interrupted: interrupted by SIGTERM",
    "terminated": f"{KILLED}SIGTERM",
    "killed": f"{KILLED}SIGKILL; running out of memory is a likely cause",
    "aborted": f"{KILLED}SIGABRT",
    "nameless_signal": f"{KILLED}signal 40",
}
BY_ITSELF = [way for way in REASONS if way not in ("killed", "terminated")]


@pytest.fixture
def sweep(job, tmp_path, monkeypatch):
    """Run tasks that end workers in these ways; return their reasons, logs and how many started."""
    monkeypatch.setattr(workers, "_serve", ends.serve)
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))

    def run(*ways, at_start="finished", size=1):
        monkeypatch.setenv("AT_START", at_start)
        none = TrackingConfig(kind="none")
        tasks = [Task(job, none, tmp_path / str(k) / way) for k, way in enumerate(ways)]
        with closing(Processes(size, lambda stage: None)) as pool:
            ended = dict(run_tasks(tasks, pool))
        starts = len((tmp_path / "starts").read_text().splitlines())
        logs = [task.folder / "job.log" for task in tasks]
        texts = [log.read_text() if log.exists() else None for log in logs]
        return [ended[number].reason for number in range(len(ways))], texts, starts

    return run


def test_end_in_a_task_costs_that_task_and_is_reported(sweep):
    ways = [step for way in REASONS for step in (way, "finished")]
    reasons, logs, starts = sweep(*ways, size=2)
    assert reasons == [REASONS.get(way) for way in ways]
    for log, reason in zip(logs, reasons, strict=True):
        assert log is reason is None or f"{reason}\n" in log
    assert starts <= len(REASONS) + 2
    assert "in lack_a_module\n" in logs[ways.index("module_missing")]
    assert "in be_interrupted\n" in logs[ways.index("interrupted")]


@pytest.mark.parametrize("way", BY_ITSELF)
def test_worker_that_cannot_start_is_tried_once(sweep, way):
    reasons, logs, starts = sweep("finished", "finished", "finished", at_start=way)
    assert reasons == [REASONS[way]] * 3
    assert all("the worker " in log for log in logs)
    assert starts == 1


def test_starts_of_several_workers_are_not_repeated(sweep):
    reasons, _, starts = sweep(*["finished"] * 20, at_start="module_missing", size=3)
    assert set(reasons) == {REASONS["module_missing"]}
    assert starts <= 3


def test_worker_that_others_kill_at_its_start_is_tried_again(sweep):
    reasons, _, starts = sweep("finished", "finished", at_start="killed")
    assert reasons == [REASONS["killed"]] * 2
    assert starts >= 2


def test_worker_that_dies_while_it_is_idle_costs_nothing(sweep, monkeypatch):
    submit = Processes.submit

    def kill_and_submit(pool, task):
        for worker in pool._workers:
            worker.process.kill()
            worker.process.join()
        return submit(pool, task)

    monkeypatch.setattr(Processes, "submit", kill_and_submit)
    reasons, logs, _ = sweep("finished", "finished")
    assert reasons == logs == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["worker", "joblib"])
def test_broken_installation_is_reported_for_every_job(folder, monkeypatch, launcher):
    Path("broken").mkdir()
    Path("broken", "scipy.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\")")
    monkeypatch.setenv("PYTHONPATH", f"broken{os.pathsep}{os.environ['PYTHONPATH']}")
    sweep = ("-m", "dataset=btad", "category=01,02,03", "tracking=none", *LAUNCHERS[launcher])
    ended = as_process(*sweep)
    assert ended.status == 1
    assert ended.out.count(f": failed: {REASONS['module_missing']}") == 3
    assert "Traceback" not in ended.out + ended.err
    logs = sorted(Path("runs/logs").rglob("job.log"))
    assert len(logs) == 3
    assert all("broken/scipy.py" in log.read_text() for log in logs)
