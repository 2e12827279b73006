"""Hydra's side of a sweep: the sweeper says which jobs there are, a launcher who does them.

`harness.compose` and `harness.sweep` do the work. Jobs go to workers as plain data: no worker needs
Hydra. Do not import this module from `harness`: Hydra loads plugins a second time under the same
name.
"""
# ruff: noqa: D102 - see Hydra's `Sweeper` and `Launcher`

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import env_override
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from harness.checks import check_jobs
from harness.compose import Composer, files_of
from harness.config import Config, conf_dir, flat, name_differences, share_extraction
from harness.record import Outcome
from harness.sweep.progress import Progress, conclude, summary
from harness.sweep.task import Task, keep_averages, sweep_of
from harness.sweep.workers import InProcess, Pool, Processes, run_tasks
from harness.system.signals import Interrupted
from harness.system.terminal import say
from harness.system.threads import cores

_MOST = 8  # workers by default: each holds a backbone in memory
# Jobs run in processes that need no Hydra: what it does around a job of its own is not done.
_ONLY = {
    "job.chdir": ("null", "false"),
    "job_logging.root": ("null",),
    "output_subdir": ("null",),
    "sweep.subdir": ("${hydra.job.num}",),
    "verbose": ("false",),
}
_OF_EACH = ("overrides", "runtime", "mode", "sweeper", "job.override_dirname")
_SETTING = re.compile(r"\$\{[^:}]*\}")


class HarnessSweeper(Sweeper):
    """The product of all swept values, each dataset with its own categories."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        del params  # of the configuration, where the composer reads them

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        _check_sweep(config, hydra_context.callbacks)
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
        shared, files = _flat(config), files_of(loader, config)
        check = partial(_check_shared, shared=shared, files=files)
        self._composer = Composer(loader, config, check)

    def sweep(self, arguments: list[str]) -> Sequence[Outcome]:
        """Run every job, print what became of each, and fail if any of them failed."""
        configs = self._composer.expand(arguments).jobs
        for key in ("tracking", "fail_fast", "plan"):
            if any(getattr(config, key) != getattr(configs[0], key) for config in configs):
                raise ValueError(f"{key} must be the same for all jobs of a sweep")
        with _environment(self._config):
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
    size: tuple[str, int] = ("n_jobs", 1)  # how many jobs run at once, and what the setting is
    outcomes: Sequence[Outcome] = ()  # of the jobs launched last, in their order

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        if not str(config.hydra.sweeper._target_).endswith(".HarnessSweeper"):
            raise ValueError(f"hydra/sweeper must be harness, got {config.hydra.sweeper._target_}")
        name, size = self.size
        if type(size) is not int or size < 1:
            raise ValueError(f"hydra.launcher.{name} must be at least 1, got {size}")
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
        self.size = "n_jobs", min(cores(), _MOST) if n_jobs is None else n_jobs

    def pool(self, progress: Progress) -> Pool:
        return Processes(self.size[1], progress.stage)


class SubmititSlurmLauncher(HarnessLauncher):
    """Submits jobs to Slurm, `max_jobs` at once; `parameters` are those of its `SlurmQueue`."""

    is_local = False

    def __init__(self, max_jobs: int, parameters: dict[str, Any]) -> None:
        self.size, self._parameters = ("max_jobs", max_jobs), parameters

    def pool(self, progress: Progress) -> Pool:
        try:
            from harness.sweep.slurm import SlurmQueue

            return SlurmQueue(self._folder / "submitit", self.size[1], parameters=self._parameters)
        except ImportError as error:
            install = "pip install 'dfkde-benchmark[submitit]'"
            raise ValueError(f"{error}: {install}") from None
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"hydra.launcher: {str(error).splitlines()[0]}") from None


def _check_sweep(config: DictConfig, callbacks: Any) -> None:
    """Refuse what Hydra would do for each job."""
    settings = _flat(config)
    for key, only in _ONLY.items():
        got = [v for name, v in settings.items() if f"{name}.".startswith(f"{key}.")]
        if got and got[0] not in only:
            raise ValueError(f"hydra.{key} must be {only[-1]} under -m, got {got[0]}")
    for callback in callbacks.callbacks:
        for name in ("on_job_start", "on_job_end"):
            if getattr(type(callback), name, None) not in (None, getattr(Callback, name)):
                raise ValueError(
                    f"hydra.callbacks must not have {name} under -m, for jobs run in other"
                    f" processes; got {type(callback).__name__}"
                )


def _check_shared(config: DictConfig, *, shared: dict[str, str], files: Any) -> None:
    """Refuse a job of which a file changes what all jobs of a sweep share of Hydra's settings."""
    choices = config.hydra.runtime.choices
    for group, choice in choices.items():
        for other, required in _overridden(group, choice, files):
            if choices.get(other) != required:
                raise ValueError(
                    f"{other} must be chosen on the command line: {group}={choice} asks for"
                    f" {other}={required}, and the sweep has {choices.get(other)}"
                )
    own = _flat(config)
    for key in sorted(own.keys() | shared.keys()):
        if own.get(key) != shared.get(key) and not key.startswith(_OF_EACH):
            raise ValueError(
                f"hydra.{key} must be the same for all jobs of a sweep, got"
                f" {own.get(key, 'null')} and {shared.get(key, 'null')}"
            )


def _overridden(group: str, choice: Any, files: Any) -> Iterator[tuple[str, Any]]:
    """Yield the groups of Hydra that a file overrides; Hydra lets the main file win."""
    if group.startswith("hydra/") or not isinstance(choice, str):
        return
    loaded = files.load_config(f"{group.partition('@')[0]}/{choice}")
    for default in () if loaded is None else loaded.defaults_list:
        if default.is_override() and default.group.startswith(("/hydra/", "hydra/")):
            yield default.group.lstrip("/"), default.value


@contextmanager
def _environment(config: DictConfig) -> Iterator[None]:
    """Set the variables of `hydra.job.env_set` in this block: workers that it starts have them."""
    written: Any = OmegaConf.to_container(config.hydra.job.env_set)
    for name, value in written.items():
        if _SETTING.search(value):
            raise ValueError(
                f"hydra.job.env_set.{name} must not depend on settings, for all jobs of a sweep"
                f" share it; got {value}"
            )
    with env_override(dict(config.hydra.job.env_set)):
        yield


def _flat(config: DictConfig) -> dict[str, str]:
    """Return the settings of Hydra by their keys, without `hydra.`, as they are written."""
    return dict(flat(OmegaConf.to_container(config.hydra)))
