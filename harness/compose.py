"""Compose configurations and expand sweeps, for the command line and for the tables alike.

Hydra reads and merges every file again for each job, a tenth of a second. Jobs that differ in
plain values only (category, seed, a number) share one composition here.

A category is one of the chosen dataset's own, also in a pattern:
`dataset=mvtec,btad,visa 'category=glob(*)'` means 15 + 3 + 12 jobs, not 30 for each dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Glob,
    Override,
    OverrideType,
    QuotedString,
    Transformer,
    ValueType,
)
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from harness.config import Config, DatasetConfig
from harness.system.secrets import check_address, server_address
from harness.system.terminal import alike, nearest, shown

ERRORS = (HydraException, OmegaConfBaseException, ValueError, YAMLError)
"""What is raised for a configuration that cannot be; see `explained`."""
CATEGORY = "category"
EXPERIMENT = "experiment"

# OmegaConf takes what follows `${` for a reference, unless a backslash stands before it.
_REFERENCE = re.compile(r"(\\*)\$\{")
_CATEGORY = re.compile(rf"\$\{{[^}}]*\b{CATEGORY}\b")
# What Hydra says in several lines, and OmegaConf of a value of another type.
_SAID = {
    r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'(?:\n| requires)": (
        "{} has several values: add -m to run a job for each"
    ),
    r"Could not append to config\. An item is already at '(.*)'": "{} is set already: leave out +",
    r"Could not delete from config\. '(.*)' does not exist": "{} is not a setting",
    r"Only one of (--run, --multirun)": "only one of --multirun, --cfg and --info can be given",
}
_RAISED = re.compile(r'^\w+ raised while resolving interpolation: "?(.*?)"?$')
_KINDS = {"Integer": "an integer", "Float": "a number", "bool": "true or false"}
_WRONG = re.compile(rf"Value '(.*?)'.*(?:converted to|not a valid) ({'|'.join(_KINDS)})")


@dataclass
class SweeperConf:
    """Hydra's schema of `hydra.sweeper`; `params` are the sweeps that files ask for."""

    _target_: str = "hydra_plugins.harness_sweep.HarnessSweeper"
    params: dict[str, str] = field(default_factory=dict)


# What `--cfg job --resolve` prints, too, holds no password.
OmegaConf.register_new_resolver("mlflow_tracking_uri", server_address)
_store = ConfigStore.instance().store
_store(name="schema", node=Config, provider="harness")
_store(group="hydra/sweeper", name="harness", node=SweeperConf, provider="harness")


class ComposeError(ValueError):
    """A sweep that cannot be."""


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, at least one, in the order in which they begin.

    `swept` holds the values of each swept key as text, in the order of the sweep; where experiments
    are swept, of the last one.
    """

    jobs: tuple[Config, ...]
    swept: dict[str, tuple[str, ...]]


def sweeps_of(conf: Path, experiments: Iterable[str]) -> dict[str, Sweep | ComposeError]:
    """Expand files in `experiment/` by name, as `python -m harness.run -m experiment=NAME` does.

    `conf` is the folder with `config.yaml` and the groups. An experiment that cannot be composed
    gives its error, and does not stop the others.
    """
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
        except ERRORS as error:  # of what all experiments share
            return dict.fromkeys(experiments, ComposeError(shown(explained(error))))
        found: dict[str, Sweep | ComposeError] = {}
        for name in experiments:
            try:
                found[name] = composer.expand([f"{EXPERIMENT}={name}"])
            except ERRORS as error:
                found[name] = ComposeError(shown(explained(error)))
        return found


def files_of(loader: Any, sweep: DictConfig) -> Any:
    """Return the configuration files that Hydra finds; its loader looks for them at each call."""
    name, given = sweep.hydra.job.config_name, OmegaConf.to_container(sweep.hydra.overrides.hydra)
    return loader._parse_overrides_and_create_caching_repo(name, given)[1]


class Composer:
    """Composes the jobs of a sweep with Hydra's own loader.

    `sweep` is the configuration of the sweep, with Hydra's part. `check` looks at each composition
    of files, with Hydra's part, and may refuse it.
    """

    def __init__(
        self,
        loader: Any,
        sweep: DictConfig,
        check: Callable[[DictConfig], object] = lambda config: None,
    ) -> None:
        self._loader, self._sweep, self._check = loader, sweep, check
        self._parser = OverridesParser.create(config_loader=loader)
        # Both are slow, and the jobs of a sweep ask the same again and again.
        self._loaded = cache(self._load)
        self._options = cache(files_of(loader, sweep).get_group_options)

    def parse(self, lines: Iterable[str]) -> list[Override]:
        """Parse overrides."""
        return self._parser.parse_overrides(list(lines))

    def compose(self, overrides: Sequence[Override]) -> DictConfig:
        """Return the configuration of the job with these overrides, without Hydra's own part."""
        # What is added or deleted may change what is set before it.
        plain = all(o.type == OverrideType.CHANGE for o in overrides)
        values = [o for o in overrides if plain and self._is_value(o)]
        config = self._loaded(_lines(o for o in overrides if o not in values))[0].copy()
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value())
        except OmegaConfBaseException:
            return self._load(_lines(overrides))[0]
        return config

    def expand(self, arguments: Iterable[str]) -> Sweep:
        """Return the product of all swept values, each dataset with its own categories.

        The arguments are overrides; they replace what files ask for in `hydra.sweeper.params`.
        """
        parts = [(own, self._products(own)) for own in self._by_experiment(arguments)]
        datasets = [job.dataset for _, products in parts for _, job in products]
        jobs: list[Config] = []
        for own, products in parts:
            # A category may be one of any dataset of the sweep.
            chosen = self._chosen(own.get(CATEGORY), datasets)
            for config, job in products:
                # Jobs of a dataset's categories mostly differ in nothing else.
                referred = _CATEGORY.search(str(OmegaConf.to_container(config)))
                for name in chosen(job.dataset.categories):
                    if referred:  # it is a name, even if it looks like a reference itself
                        OmegaConf.update(config, CATEGORY, _REFERENCE.sub(r"\1\1\\${", name))
                    jobs.append(replace(typed(config) if referred else job, category=name))
        last = {key: o for key, o in parts[-1][0].items() if o.is_sweep_override()}
        swept = {k: tuple(map(_text, self._values(o))) for k, o in last.items() if k != CATEGORY}
        swept[CATEGORY] = tuple(dict.fromkeys(str(job.category) for job in jobs))
        return Sweep(tuple(jobs), swept)

    def _by_experiment(self, arguments: Iterable[str]) -> Iterator[dict[str, Override]]:
        """Yield the overrides of each experiment by key, those that its file asks for first."""
        given = _by_key(self.parse(arguments))
        swept = {key for key, override in given.items() if override.is_sweep_override()}
        if {"dataset", EXPERIMENT} <= swept:
            raise ComposeError(
                "dataset and experiment must not both be swept, for an experiment has a dataset;"
                f" got {given['dataset'].input_line} and {given[EXPERIMENT].input_line}"
            )
        for chosen in self._singles(given[EXPERIMENT]) if EXPERIMENT in given else [None]:
            own = given if chosen is None else given | {EXPERIMENT: chosen}
            files = [o for o in own.values() if not (o.is_sweep_override() or self._is_value(o))]
            asked = self._loaded(_lines(files))[1]
            if EXPERIMENT in asked:
                raise ComposeError(f"hydra.sweeper.params must not have {EXPERIMENT}")
            yield _by_key(self.parse(f"{key}={text}" for key, text in asked.items())) | own

    def _products(self, own: Mapping[str, Override]) -> list[tuple[DictConfig, Config]]:
        """Compose and read the jobs, except for their categories."""
        singles = (self._singles(o) for key, o in own.items() if key != CATEGORY)
        composed = [self.compose(values) for values in product(*singles)]
        return [(config, typed(config)) for config in composed]

    def _singles(self, override: Override) -> list[Override]:
        """Return an override for each of the values."""
        if not override.is_sweep_override():
            return [override]
        kind, key = ValueType.ELEMENT, override.get_key_element()
        return [
            replace(override, value_type=kind, _value=v, input_line=f"{key}={Transformer.str(v)}")
            for v in self._values(override)
        ]

    def _values(self, override: Override) -> list[Any]:
        """List the values of an override."""
        value = override.value()
        if not override.is_sweep_override():
            return [value]
        if override.is_interval_sweep():
            raise ComposeError(f"{override.input_line} must be a list of values, or a range")
        try:
            if isinstance(value, Glob):
                values: list[Any] = value.filter(self._options(override.key_or_group))
            else:
                values = list(override.sweep_iterator())
        except (HydraException, ValueError) as error:
            raise ComposeError(f"{override.input_line}: {error}") from None
        if not values:
            raise ComposeError(f"{override.input_line} must have values, and has none")
        return values

    def _chosen(
        self, wanted: Override | None, datasets: Sequence[DatasetConfig]
    ) -> Callable[[list[str]], list[str]]:
        """Return what chooses the categories to run from those of a dataset."""
        value = None if wanted is None else wanted.value()
        if isinstance(value, Glob):
            if not any(value.filter(dataset.categories) for dataset in datasets):
                rule = "category=glob(...) matches no category"
                raise ComposeError(f"{rule}. {_choices(datasets)}")
            return value.filter
        names = None
        if wanted is not None and value is not None:
            names = [_text(value) for value in self._values(wanted)]
        check_categories(names, datasets)
        return lambda categories: [name for name in names or () if name in categories]

    def _load(self, lines: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        """Let Hydra compose; return the job's part, and the sweeps that the files ask for."""
        config = self._loader.load_sweep_config(self._sweep, list(lines))
        self._check(config)
        asked = dict(config.hydra.sweeper.get("params") or {})
        with read_write(config), open_dict(config):
            del config["hydra"]
        return config, asked

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a plain value and so changes no other choice."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not self._options(override.key_or_group)
        )


def typed(config: DictConfig) -> Config:
    """Read a composed configuration; a part that is missing or wrong raises one of `ERRORS`.

    The address of the store has no password, for what is read here is written to files.
    """
    read: Any = OmegaConf.to_object(config)
    _refuse_added(read)
    if read.tracking.uri is None:
        return read
    return replace(read, tracking=replace(read.tracking, uri=check_address(read.tracking.uri)))


def _refuse_added(config: Any, prefix: str = "") -> None:
    """Refuse what `+` adds beside the settings, for it would have no effect."""
    known = [own.name for own in fields(config)]
    for name, value in vars(config).items():
        if name not in known:
            raise ComposeError(_no_setting(f"{prefix}{name}", known))
        if is_dataclass(value):
            _refuse_added(value, f"{name}.")


def explained(error: BaseException) -> str:
    """Write an error of Hydra or of OmegaConf in one line, with the nearest valid word."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"{group} must be one of {options}, got {choice!r}{nearest(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            return f"{key!r} must be written as setting=value, or is an option without its --"
        return f"the value of {key} cannot be read: quote what is text, as '{key}=\"{value}\"'"
    for pattern, rule in _SAID.items():
        if said := re.match(pattern, str(error)):
            return rule.format(said[1])
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    return " ".join(str(error).split()) if cause is None else _of_setting(cause)


def _of_setting(error: OmegaConfBaseException) -> str:
    key, parent = error.full_key or "", error.parent_node
    reason = str(error.msg or error).partition("\n")[0]
    if isinstance(error, MissingMandatoryValue):
        name = reason.rpartition(": ")[2]
        key = key if key.endswith(name) else f"{key}.{name}".lstrip(".")
        return f"{key} must be given; docs/settings.md says what it is"
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and isinstance(parent, DictConfig):
        return _no_setting(key, [str(name) for name in parent])
    reason = _RAISED.sub(r"\1", reason)
    if reason.endswith("is not Optional"):
        return f"{key} must not be null"
    wrong = _WRONG.match(reason)
    if wrong:
        return f"{key} must be {_KINDS[wrong[2]]}, got {wrong[1]!r}"
    return f"{key}: {reason}" if key not in reason else reason


def _no_setting(key: str, known: Collection[str]) -> str:
    own = [name for name in known if name != "hydra"]
    if not own:
        return f"{key} is not a setting: {key.rpartition('.')[0]} has none"
    hint = nearest(key.rpartition(".")[2], own)
    return f"{key} is not a setting{hint} Choose from: {', '.join(own)}"


def check_categories(names: Sequence[str] | None, datasets: Sequence[DatasetConfig]) -> None:
    """Refuse a sweep for which no categories are given (None), and a name that no dataset has."""
    every = [name for dataset in datasets for name in dataset.categories]
    if names is None:
        raise ComposeError(f"category must be given. {_choices(datasets)}")
    for name in (name for name in names if name not in every):
        hint = nearest(name, every)
        if "*" in name:
            hint = "; with -m, a pattern is 'category=glob(*)'."
        among = ", ".join(dict.fromkeys(dataset.name for dataset in datasets))
        given = f"category={name!r}{alike(name, every)}"
        raise ComposeError(f"{given} is not in dataset {among}{hint} {_choices(datasets)}")


def _choices(datasets: Sequence[DatasetConfig]) -> str:
    every = dict.fromkeys(name for dataset in datasets for name in dataset.categories)
    return f"Choose from: {', '.join(every)}"


def _by_key(overrides: Iterable[Override]) -> dict[str, Override]:
    found: dict[str, Override] = {}
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        first = found.setdefault(key, override)
        if first is not override:
            lines = f"{first.input_line} and {override.input_line}"
            raise ComposeError(f"{key} must be given once, got {lines}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, QuotedString):
        return value.text
    return value if isinstance(value, str) else Transformer.str(value)


def _lines(overrides: Iterable[Override]) -> tuple[str, ...]:
    return tuple(override.input_line or "" for override in overrides)
