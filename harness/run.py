"""The command line: compose the configuration, then run one job or a sweep of jobs.

`python -m harness.run dataset=elpv category=mono` runs one job,
`python -m harness.run -m dataset=mvtec 'category=glob(*)'` one for each category.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from harness.checks import check_settings
from harness.compose import Named, name_categories, typed
from harness.config import Config, conf_dir
from harness.record import Outcome, Stages
from harness.sweep.progress import Progress, failures, leave_if_busy, summary
from harness.sweep.task import Task, perform, sweep_of
from harness.system.secrets import check_argument
from harness.system.signals import interruptible
from harness.system.terminal import say, shown
from harness.tracking import StoreError


class JobError(CompactHydraException):
    """A job that cannot start, or that failed; Hydra prints it without a traceback."""


def main() -> None:
    """Run the command line of this process."""
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_task)
    with interruptible(last=True):
        try:
            for argument in sys.argv[1:]:
                check_argument(argument)
            _prefer_own_launchers()
            run()
        except ValueError as error:  # a password; options of Hydra that do not go together
            say(str(error), error=True)
            sys.exit(1)


def _prefer_own_launchers() -> None:
    """Forget launchers of other packages that have the name of a file in `conf/hydra/launcher`.

    They would be merged with ours, with a warning; and they lose all jobs if one worker dies.
    """
    Plugins.instance()  # loads every package's plugins
    theirs = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"):
        theirs.pop(path.name, None)


def _task(cfg: DictConfig) -> Outcome:
    config = typed(cfg)
    _check(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    task = Task(config.job(), config.tracking, folder, config.force, config.save_model)
    progress = Progress(1)
    try:
        with sweep_of(progress, config.tracking, config.features.cache):
            outcome = perform(task, Stages(progress.stage))
    except StoreError as error:
        raise JobError(shown(str(error))) from None
    say(*summary([outcome]).split("\n"))
    if failures([outcome]):
        raise JobError("the job failed")
    leave_if_busy([outcome])
    return outcome


def _check(config: Config) -> None:
    """Refuse what cannot become a job, before anything is read or a slow library imported."""
    given = None if config.category is None else [config.category]
    try:
        name_categories(given, [Named(config.dataset.name, tuple(config.dataset.categories))])
        check_settings([config])
    except ValueError as error:
        raise JobError(shown(str(error))) from None


if __name__ == "__main__":
    main()
