"""The command line: compose the configuration, then run one job or a sweep of jobs.

`python -m harness.run dataset=elpv category=mono` runs one job,
`python -m harness.run -m dataset=mvtec 'category=glob(*)'` one for each category.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import env_override, run_job
from omegaconf import DictConfig

from harness.checks import check_jobs
from harness.compose import ERRORS, check_categories, explained, typed
from harness.config import Config, conf_dir
from harness.record import Outcome, Stages
from harness.sweep.progress import Progress, conclude
from harness.sweep.task import Task, perform, sweep_of
from harness.system.secrets import check_argument
from harness.system.signals import interruptible
from harness.system.terminal import nearest, say
from harness.tracking import StoreError

# With it Hydra raises its errors, and does not print them in several lines.
_RAISE = "HYDRA_FULL_ERROR"
_traceback_wanted = os.environ.get(_RAISE) == "1"
_PLAN = re.compile(r"\+*plan=(true|yes|on|1)", re.IGNORECASE)


def main() -> None:
    """Run the command line of this process."""
    run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_task)
    if sys.path[0] == str(Path(sys.argv[0]).parent):  # a console script's: it is to find modules
        sys.path.insert(0, str(Path.cwd()))  # of the working folder, as `python -m` does
    with interruptible(last=True), _in_one_line():
        for argument in sys.argv[1:]:
            check_argument(argument)
        sys.argv[1:] = _in_order(sys.argv[1:])
        _prefer_own_launchers()
        with env_override({_RAISE: "1"}):
            run()


@contextmanager
def _in_one_line() -> Iterator[None]:
    """End the process with one line for an error of the command line."""
    try:
        yield
    except (*ERRORS, OSError, StoreError) as error:
        if _traceback_wanted:
            raise
        # What Hydra does itself for a job is to make its folder.
        modules = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)]
        of_hydra = isinstance(error, OSError) and run_job.__module__ in modules
        rule = "hydra.run.dir must be a folder that can be made and written to: " * of_hydra
        say(rule + explained(error), error=True)
        raise SystemExit(1) from None


def _in_order(arguments: list[str]) -> list[str]:
    """Put options before overrides, as Hydra wants them; a plan is made by a sweep, also of one."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        given, unknown = parser.parse_known_intermixed_args(arguments)
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    options = re.findall(r"--[a-z-]+", parser.format_usage())
    for name in unknown:
        raise ValueError(f"{name} is not an option{nearest(name, options)} See --help")
    planned = any(map(_PLAN.fullmatch, given.overrides))
    other = given.multirun or given.cfg or given.info or given.help or given.hydra_help
    first = ["--multirun"] if planned and not other else []
    without = {*given.overrides, *(("--run", "-r") if first else ())}
    return [*first, *(a for a in arguments if a not in without), *given.overrides]


def _prefer_own_launchers() -> None:
    """Forget launchers of other packages that have the name of a file in `conf/hydra/launcher`.

    They would be merged with ours, with a warning; and they lose all jobs if one worker dies.
    """
    Plugins.instance()  # loads every package's plugins
    theirs = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"):
        theirs.pop(path.name, None)


@_in_one_line()  # here too, for Hydra would add a line
def _task(cfg: DictConfig) -> Outcome:
    config = typed(cfg)
    _check(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    task = Task(config.job(), config.tracking, folder, config.force, config.save_model)
    progress = Progress(1)
    with sweep_of(progress, config.tracking, config.features.cache):
        outcome = perform(task, Stages(progress.stage))
    conclude([outcome])
    return outcome


def _check(config: Config) -> None:
    """Refuse what cannot become a job, before anything is read or a slow library imported."""
    given = None if config.category is None else [config.category]
    check_categories(given, [config.dataset])
    check_jobs([config])


if __name__ == "__main__":
    main()
