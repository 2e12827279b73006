"""Sweep over the categories that each dataset has.

Hydra's own `glob` chooses among the options of a config group, whatever the other choices; a
category is a plain value whose choices are the list `categories` of the chosen dataset. So
`dataset=mvtec,btad,visa 'category=glob(*)'` means 15 + 3 + 12 jobs, not 30 for each dataset.

Do not import this module from `harness`: Hydra loads plugins a second time under the same name,
and a class loaded twice breaks `super()`. Nor may its annotations be postponed: while Hydra loads
it the module is not in `sys.modules`, where a dataclass would look them up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from harness.categories import CategoryError, match_categories, name_categories
from harness.confdir import conf_dir
from harness.outcome import failures, leave_if_busy, summary
from harness.show import say, shown
from harness.signals import Interrupted
from hydra_plugins.harness_sweeper.composing import Composer

CATEGORY = "category"
EXPERIMENT = "experiment"


@dataclass
class HarnessSweeperConf:
    """Hydra's schema of `hydra.sweeper`."""

    _target_: str = "hydra_plugins.harness_sweeper.harness_sweeper.HarnessSweeper"
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="harness", node=HarnessSweeperConf, provider="harness"
)


class SweepError(CompactHydraException):
    """A sweep that cannot start, or in which jobs failed; Hydra prints it without traceback."""


class HarnessSweeper(BasicSweeper):
    """The product of all swept values, each dataset with its own categories.

    Parameters
    ----------
    params : dict of str to str, optional
        Sweeps that the configuration asks for; the command line replaces them.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        BasicSweeper.__init__(self, max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job, print what became of each, and fail if any of them failed."""
        self._check_launcher()
        try:
            batches = BasicSweeper.sweep(self, arguments)
        except Interrupted as error:
            say(*summary(self.launcher.outcomes).split("\n"))  # type: ignore[union-attr]
            say(str(error), error=True)
            raise
        outcomes = [job.return_value for batch in batches for job in batch]
        say(*summary(outcomes).split("\n"))
        failed = failures(outcomes)
        if failed:
            raise SweepError(f"{len(failed)} of {len(outcomes)} jobs failed")
        leave_if_busy(outcomes)
        return batches

    def _check_launcher(self) -> None:
        """Refuse the launchers of other packages: they know neither `fail_fast` nor recovery."""
        if not hasattr(self.launcher, "outcomes"):
            names = sorted(path.stem for path in (conf_dir() / "hydra" / "launcher").glob("*.yaml"))
            got = type(self.launcher).__name__
            raise SweepError(f"hydra/launcher must be one of {', '.join(names)}; got {got}")

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes all jobs before it runs the first."""

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Build the jobs, each a list of overrides; every dataset gets its own categories."""
        parts = [_part(own) for own in self._by_experiment(overrides)]
        datasets = [self._datasets(products) for _, products in parts]
        every = [dataset for own in datasets for dataset in own]
        jobs: list[list[str]] = []
        for (wanted, products), own in zip(parts, datasets, strict=True):
            # A category may be one of any dataset of the sweep.
            selected = _select(wanted, every)
            for product, dataset in zip(products, own, strict=True):
                jobs += [[*product, f"{CATEGORY}='{name}'"] for name in selected[dataset.name]]
        return [jobs]

    def _by_experiment(self, overrides: list[Override]) -> Iterator[list[Override]]:
        """Yield the overrides of each swept experiment, those that it asks for itself first."""
        swept = [o for o in overrides if o.key_or_group == EXPERIMENT and o.is_sweep_override()]
        if not swept:
            yield overrides
            return
        composer = self._composer()
        given = [o for o in overrides if o.key_or_group != EXPERIMENT]
        for name in swept[-1].sweep_string_iterator():
            yield composer.sweeps_of(f"{EXPERIMENT}={name}") + given

    def _datasets(self, products: Sequence[Sequence[str]]) -> list[DictConfig]:
        """Return each product's dataset, composed once for what can change it."""
        compose = cache(self._composer().compose)
        return [compose(tuple(filter(_changes_dataset, product))).dataset for product in products]

    def _composer(self) -> Composer:
        # Both are set by Hydra before it calls sweep().
        assert self.hydra_context is not None  # noqa: S101
        assert self.config is not None  # noqa: S101
        return Composer(self.hydra_context.config_loader, self.config)


def _changes_dataset(override: str) -> bool:
    key = override.split("=", 1)[0].lstrip("+~")
    return key in ("dataset", EXPERIMENT) or key.startswith("dataset.")


def _part(overrides: list[Override]) -> tuple[Glob | list[str] | None, list[list[str]]]:
    """Return the wanted categories and the product of all other values."""
    others = [o for o in overrides if o.get_key_element() != CATEGORY]
    wanted = [_wanted(o) for o in overrides if o.get_key_element() == CATEGORY]
    [products] = BasicSweeper.split_arguments(others, None)
    return (wanted[-1] if wanted else None), products


def _wanted(override: Override) -> Glob | list[str]:
    """Return a category override as a glob or as the names it lists."""
    value = override.value()
    if isinstance(value, Glob):
        return value
    elements = value.list if isinstance(value, ChoiceSweep) else [value]
    return [
        element.text if isinstance(element, QuotedString) else str(element) for element in elements
    ]


def _select(wanted: Glob | list[str] | None, datasets: list[DictConfig]) -> dict[str, list[str]]:
    """Return the categories to run, by name of the dataset."""
    categories = {dataset.name: list(dataset.categories) for dataset in datasets}
    try:
        if isinstance(wanted, Glob):
            return match_categories(wanted.filter, categories)
        return name_categories(wanted, categories)
    except CategoryError as error:
        raise SweepError(shown(str(error))) from None
