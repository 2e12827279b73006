"""Hydra's side of a sweep: the sweeper says which jobs there are, a launcher who does them.

`harness.compose` and `harness.sweep` do the work. Jobs go to workers as plain data: no worker needs
Hydra. Do not import this module from `harness`: Hydra loads plugins a second time under the same
name.
"""
# ruff: noqa: D102 - see Hydra's `Sweeper` and `Launcher`

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from harness.checks import check_jobs
from harness.compose import Composer
from harness.config import Config, conf_dir, name_differences, share_extraction
from harness.record import Outcome
from harness.sweep.multirun import SharedSettings, check_sweep, environment
from harness.sweep.progress import Progress, conclude, summary
from harness.sweep.task import Task, keep_averages, sweep_of
from harness.sweep.workers import InProcess, Pool, Processes, run_tasks
from harness.system.signals import Interrupted
from harness.system.terminal import say
from harness.system.threads import cores

_MOST = 8  # workers by default: each holds a backbone in memory


class HarnessSweeper(Sweeper):
    """The product of all swept values, each dataset with its own categories."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        del params  # of the configuration, where the composer reads them

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        check_sweep(config, hydra_context.callbacks)
        self._config = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        # The launchers of other packages know neither `fail_fast` nor recovery.
        if not hasattr(self.launcher, "outcomes"):
            names = sorted(path.stem for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"))
            got = type(self.launcher).__name__
            raise ValueError(f"hydra/launcher must be one of {', '.join(names)}; got {got}")
        loader = hydra_context.config_loader
        self._composer = Composer(loader, config, SharedSettings(loader, config).check)

    def sweep(self, arguments: list[str]) -> Sequence[Outcome]:
        """Run every job, print what became of each, and fail if any of them failed."""
        configs = self._composer.expand(arguments).jobs
        for key in ("tracking", "fail_fast", "plan"):
            if any(getattr(config, key) != getattr(configs[0], key) for config in configs):
                raise ValueError(f"{key} must be the same for all jobs of a sweep")
        with environment(self._config):
            if configs[0].plan:
                from harness.plan import plan  # few commands need it

                lines, can_run = plan(configs, local=self.launcher.is_local)
                say(*lines)
                raise SystemExit(0 if can_run else 1)
            check_jobs(configs, local=self.launcher.is_local)
            # The configuration is kept beside the logs of the jobs, as by Hydra's own sweeper.
            folder = Path(self._config.hydra.sweep.dir)
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self._config, folder / "multirun.yaml")
            try:
                outcomes = self.launcher.launch(configs, initial_job_idx=0)
            except Interrupted as error:
                say(*summary(self.launcher.outcomes).split("\n"))
                say(str(error), error=True)
                raise
        conclude(outcomes)
        return outcomes


class HarnessLauncher(Launcher):
    """Runs every job in one worker process, which keeps the backbone from job to job."""

    is_local = True  # whether jobs run on this machine
    outcomes: Sequence[Outcome] = ()  # of the jobs launched last, in their order

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        if not str(config.hydra.sweeper._target_).endswith(".HarnessSweeper"):
            raise ValueError(f"hydra/sweeper must be harness, got {config.hydra.sweeper._target_}")
        self._folder = Path(config.hydra.sweep.dir).resolve()

    def launch(  # type: ignore[override]
        self, configs: Sequence[Config], initial_job_idx: int
    ) -> Sequence[Outcome]:
        """Run the jobs, which the sweeper has composed, and return what became of each."""
        jobs = share_extraction(name_differences([config.job() for config in configs]))
        tasks = [
            Task(job, c.tracking, self._folder / str(number), c.force, c.save_model)
            for number, (job, c) in enumerate(zip(jobs, configs, strict=True), initial_job_idx)
        ]
        self.outcomes = outcomes = [Outcome(str(job), "stopped") for job in jobs]
        progress, first = Progress(len(tasks)), configs[0]
        with (
            closing(self.pool(progress)) as pool,
            sweep_of(progress, first.tracking, first.features.cache),
            closing(run_tasks(tasks, pool, fail_fast=first.fail_fast)) as ends,
        ):
            for number, outcome in ends:
                outcomes[number] = outcome
                progress.count(outcome)
            keep_averages(tasks, outcomes)
        return outcomes

    def pool(self, progress: Progress) -> Pool:
        """Return who does the tasks."""
        return Processes(1, progress.stage)


class InProcessLauncher(HarnessLauncher):
    """Runs every job in this process, for a debugger; it dies with the first job that kills it."""

    def pool(self, progress: Progress) -> Pool:
        return InProcess(progress.stage)


class JoblibLauncher(HarnessLauncher):
    """Runs jobs in `n_jobs` processes: by default one for each core, but no more than eight."""

    def __init__(self, n_jobs: int | None = None) -> None:
        self._size = min(cores(), _MOST) if n_jobs is None else n_jobs

    def pool(self, progress: Progress) -> Pool:
        return Processes(_positive("n_jobs", self._size), progress.stage)


class SubmititSlurmLauncher(HarnessLauncher):
    """Submits jobs to Slurm, `max_jobs` at once; `parameters` are those of its `SlurmQueue`."""

    is_local = False

    def __init__(self, max_jobs: int, parameters: dict[str, Any]) -> None:
        self._size, self._parameters = max_jobs, parameters

    def pool(self, progress: Progress) -> Pool:
        size = _positive("max_jobs", self._size)
        try:
            from harness.sweep.slurm import SlurmQueue

            return SlurmQueue(self._folder / "submitit", size, parameters=self._parameters)
        except ImportError as error:
            install = "pip install 'dfkde-benchmark[submitit]'"
            raise ValueError(f"{error}: {install}") from None
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"hydra.launcher: {str(error).splitlines()[0]}") from None


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"hydra.launcher.{name} must be at least 1, got {value}")
    return value
