"""Launchers of a sweep: a worker that dies costs its own job only.

`conf/hydra/launcher` names them and their settings; `harness.sweep` does the work. Jobs go to
workers as plain data: no worker needs Hydra.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from harness.checks import check_settings
from harness.config import Config, name_differences
from harness.sweep.outcome import Outcome, Progress
from harness.sweep.task import Task, keep_averages, sweep_of
from harness.sweep.workers import InProcess, Pool, Processes, run_tasks
from harness.system.terminal import shown
from harness.system.threads import cores
from harness.tracking import StoreError

_MOST = 8
"""Workers by default at most: each holds a backbone in memory."""


class LaunchError(CompactHydraException):
    """A launcher that cannot be set up so; Hydra prints it without a traceback."""


class HarnessLauncher(Launcher):
    """Runs every job in one worker process, which keeps the backbone from job to job."""

    is_local = True
    """Whether jobs run on this machine."""
    outcomes: Sequence[Outcome] = ()
    """Of the jobs launched last, in their order."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over before a sweep."""
        if not str(config.hydra.sweeper._target_).endswith(".HarnessSweeper"):
            raise LaunchError(f"hydra/sweeper must be harness, got {config.hydra.sweeper._target_}")
        self._folder = Path(config.hydra.sweep.dir).resolve()

    def launch(  # type: ignore[override]
        self, configs: Sequence[Config], initial_job_idx: int
    ) -> Sequence[Outcome]:
        """Run the jobs, which the sweeper has composed, and return what became of each."""
        with _in_one_line(ValueError):
            check_settings(configs, weights=self.is_local)
        jobs = name_differences([config.job() for config in configs])
        tasks = [
            Task(job, c.tracking, self._folder / str(number), c.force, c.save_model)
            for number, (job, c) in enumerate(zip(jobs, configs, strict=True), initial_job_idx)
        ]
        with _in_one_line(StoreError):
            self._run(tasks, configs[0])
        return self.outcomes

    def _run(self, tasks: Sequence[Task], config: Config) -> None:
        self.outcomes = outcomes = [Outcome(str(task.job), "stopped") for task in tasks]
        progress = Progress(len(tasks))
        with (
            closing(self.pool(progress)) as pool,
            sweep_of(progress, config.tracking, config.features.cache),
            closing(run_tasks(tasks, pool, fail_fast=config.fail_fast)) as ends,
        ):
            for number, outcome in ends:
                outcomes[number] = outcome
                progress.count(outcome)
            keep_averages(tasks, outcomes)

    def pool(self, progress: Progress) -> Pool:
        """Return who does the tasks."""
        return Processes(1, progress.stage)


class InProcessLauncher(HarnessLauncher):
    """Runs every job in this process, for a debugger; it dies with the first job that kills it."""

    def pool(self, progress: Progress) -> Pool:
        """Return this process."""
        return InProcess(progress.stage)


class JoblibLauncher(HarnessLauncher):
    """Runs jobs in `n_jobs` processes: by default one for each core, but no more than eight."""

    def __init__(self, n_jobs: int | None = None) -> None:
        self._size = _positive("n_jobs", min(cores(), _MOST) if n_jobs is None else n_jobs)

    def pool(self, progress: Progress) -> Pool:
        """Return the processes."""
        return Processes(self._size, progress.stage)


class SubmititSlurmLauncher(HarnessLauncher):
    """Submits jobs to Slurm, `max_jobs` at once; `parameters` are those of its `SlurmQueue`."""

    is_local = False

    def __init__(self, max_jobs: int, parameters: dict[str, Any]) -> None:
        self._size = _positive("max_jobs", max_jobs)
        self._parameters = parameters

    def pool(self, progress: Progress) -> Pool:
        """Return the queue."""
        try:
            from harness.sweep.slurm import SlurmQueue

            return SlurmQueue(self._folder / "submitit", self._size, parameters=self._parameters)
        except ImportError as error:
            install = "pip install 'dfkde-benchmark[submitit]'"
            raise LaunchError(f"{shown(str(error))}: {install}") from None
        except (RuntimeError, ValueError) as error:
            raise LaunchError(f"hydra.launcher: {shown(str(error).splitlines()[0])}") from None


@contextmanager
def _in_one_line(kind: type[Exception]) -> Iterator[None]:
    """Report a fault of this kind without a traceback."""
    try:
        yield
    except kind as error:
        raise LaunchError(shown(str(error))) from None


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise LaunchError(f"hydra.launcher.{name} must be at least 1, got {value}")
    return value
