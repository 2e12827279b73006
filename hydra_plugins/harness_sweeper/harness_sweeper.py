"""Sweep over the categories that each dataset has: `harness.compose` says which jobs that are.

Do not import this module from `harness`: Hydra loads plugins a second time under the same name,
and a class loaded twice breaks `super()`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from harness.compose import Composer
from harness.config import Config, conf_dir
from harness.sweep.multirun import SharedSettings, check_sweep, environment
from harness.sweep.outcome import Outcome, failures, leave_if_busy, summary
from harness.sweep.signals import Interrupted
from harness.system.terminal import say


class SweepError(CompactHydraException):
    """A sweep that cannot start, or in which jobs failed; Hydra prints it without traceback."""


class HarnessSweeper(Sweeper):
    """The product of all swept values, each dataset with its own categories."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        del params  # of the configuration, where the composer reads them

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over before a sweep, and refuse what a sweep would not do."""
        check_sweep(config, hydra_context.callbacks)
        self._config = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._check_launcher()
        loader = hydra_context.config_loader
        self._composer = Composer(loader, config, SharedSettings(loader, config).check)

    def sweep(self, arguments: list[str]) -> Sequence[Outcome]:
        """Run every job, print what became of each, and fail if any of them failed."""
        configs = [job.config for job in self._composer.expand(arguments).jobs]
        for key in ("tracking", "fail_fast"):
            if any(getattr(config, key) != getattr(configs[0], key) for config in configs):
                raise SweepError(f"{key} must be the same for all jobs of a sweep")
        with environment(self._config):
            self._keep_config()
            outcomes = self._launch(configs)
        say(*summary(outcomes).split("\n"))
        failed = failures(outcomes)
        if failed:
            raise SweepError(f"{len(failed)} of {len(outcomes)} jobs failed")
        leave_if_busy(outcomes)
        return outcomes

    def _launch(self, configs: Sequence[Config]) -> Sequence[Outcome]:
        try:
            return self.launcher.launch(configs, initial_job_idx=0)
        except Interrupted as error:
            say(*summary(self.launcher.outcomes).split("\n"))
            say(str(error), error=True)
            raise

    def _keep_config(self) -> None:
        """Keep the configuration beside the logs of the jobs, as Hydra's own sweeper does."""
        folder = Path(self._config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, folder / "multirun.yaml")

    def _check_launcher(self) -> None:
        """Refuse the launchers of other packages: they know neither `fail_fast` nor recovery."""
        if not hasattr(self.launcher, "outcomes"):
            names = sorted(path.stem for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"))
            got = type(self.launcher).__name__
            raise SweepError(f"hydra/launcher must be one of {', '.join(names)}; got {got}")
