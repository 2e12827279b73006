"""Compose the configurations of a sweep: once for each choice of groups, then value by value.

Hydra reads and merges every file again for each job, a tenth of a second. Jobs that differ in
plain values only (category, seed, a number) share one composition here.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes job configurations.

    Parameters
    ----------
    loader : hydra.core.config_loader.ConfigLoader
        Hydra's own.
    config : DictConfig
        The configuration of the sweep.
    """

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self._loader = loader
        self._config = config
        self._parser = OverridesParser.create(config_loader=loader)
        self._base = cache(self._load)
        # Both are slow, and the jobs of a sweep ask the same again and again.
        self._parse = cache(self._parser.parse_override)
        self._options = cache(loader.get_group_options)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of the job with these overrides, without Hydra's own part.

        Raises
        ------
        hydra.errors.ConfigCompositionException
            If an override does not fit; Hydra's own words.
        """
        parsed = [self._parse(override) for override in overrides]
        values = [override for override in parsed if self._is_value(override)]
        chosen = tuple(o.input_line for o in parsed if not self._is_value(o))
        config = self._base(chosen).copy()
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value())
        except OmegaConfBaseException:
            return self._load(tuple(overrides))
        return config

    def sweeps_of(self, experiment: str) -> list[Override]:
        """Return an experiment's override and the sweeps that its file asks for."""
        config = self._loader.load_sweep_config(self._config, [experiment])
        params = config.hydra.sweeper.params or {}
        asked = [f"{name}={values}" for name, values in params.items()]
        return self._parser.parse_overrides([experiment, *asked])

    def _load(self, overrides: tuple[str, ...]) -> DictConfig:
        config = self._loader.load_sweep_config(self._config, list(overrides))
        with read_write(config), open_dict(config):
            del config["hydra"]
        return config

    def _is_value(self, override: Override) -> bool:
        """Tell whether an override sets a plain value and so changes no other choice."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not self._options(override.key_or_group)
        )
