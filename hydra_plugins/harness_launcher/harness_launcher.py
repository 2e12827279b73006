"""Launchers whose workers cost their own job only when they die.

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
    """Runs every job in one worker process, one after another; the others say where instead.

    The worker keeps the backbone from one job to the next, and where it dies, the sweep does not.

    Attributes
    ----------
    outcomes : list of Outcome
        Of the batch launched last, in the order of its jobs.
    """

    is_local = True
    """Whether jobs run on this machine."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

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
        self._check(configs)
        jobs = name_differences([config.job() for config in configs])
        tasks = [
            Task(job, c.tracking, self._folder / str(number), c.force, c.save_model)
            for number, (job, c) in enumerate(zip(jobs, configs, strict=True), initial_job_idx)
        ]
        self.outcomes = [Outcome(str(task.job), "stopped") for task in tasks]
        try:
            self._run(tasks, configs[0])
        except StoreError as error:
            raise LaunchError(shown(str(error))) from None
        return self.outcomes

    def _run(self, tasks: Sequence[Task], config: Config) -> None:
        progress = Progress(len(tasks))
        with (
            closing(self.pool(progress)) as pool,
            sweep_of(progress, config.tracking, config.features.cache),
            closing(run_tasks(tasks, pool, fail_fast=config.fail_fast)) as ends,
        ):
            for number, outcome in ends:
                self.outcomes[number] = outcome
                progress.count(outcome)
            keep_averages(tasks, self.outcomes)

    def _check(self, configs: Sequence[Config]) -> None:
        try:
            check_settings(configs, weights=self.is_local)
        except ValueError as error:
            raise LaunchError(shown(str(error))) from None

    def pool(self, progress: Progress) -> Pool:
        """Return who does the tasks."""
        return Processes(1, progress.stage)


class InProcessLauncher(HarnessLauncher):
    """Runs every job in this process, for a debugger; it dies with the first job that kills it."""

    def pool(self, progress: Progress) -> Pool:
        """Return this process."""
        return InProcess(progress.stage)


class JoblibLauncher(HarnessLauncher):
    """Runs jobs in several processes of this machine.

    Parameters
    ----------
    n_jobs : int, optional
        How many processes; one for each core by default, but no more than eight.
    """

    def __init__(self, n_jobs: int | None = None) -> None:
        self.outcomes = []
        self._size = _positive("n_jobs", min(cores(), _MOST) if n_jobs is None else n_jobs)

    def pool(self, progress: Progress) -> Pool:
        """Return the processes."""
        return Processes(self._size, progress.stage)


class SubmititSlurmLauncher(HarnessLauncher):
    """Submits each job to Slurm.

    Parameters
    ----------
    max_jobs : int
        How many are in Slurm's queue at once.
    parameters : dict
        What `sbatch` takes, in the words of submitit's SlurmExecutor.
    """

    is_local = False

    def __init__(self, max_jobs: int, parameters: dict[str, Any]) -> None:
        self.outcomes = []
        self._size = _positive("max_jobs", max_jobs)
        self._parameters = parameters

    def pool(self, progress: Progress) -> Pool:
        """Return the queue."""
        with _told_in_one_line():
            from harness.sweep.slurm import SlurmQueue

            return SlurmQueue(self._folder / "submitit", self._size, parameters=self._parameters)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """Let what submitit lacks be told without a traceback."""
    try:
        yield
    except ImportError as error:
        raise LaunchError(f"{shown(str(error))}: pip install 'dfkde-benchmark[submitit]'") from None
    except (RuntimeError, ValueError) as error:
        raise LaunchError(f"hydra.launcher: {shown(str(error).splitlines()[0])}") from None


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise LaunchError(f"hydra.launcher.{name} must be at least 1, got {value}")
    return value
