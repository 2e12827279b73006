"""What a configuration asks of Hydra: a sweep does it, or refuses it by name before any work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import env_override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.compose import ComposeError, files_of
from harness.config import flat

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


def check_sweep(config: DictConfig, callbacks: Any) -> None:
    """Refuse what Hydra would do for each job; raises `ComposeError`."""
    settings = _flat(config)
    for key, only in _ONLY.items():
        got = [v for name, v in settings.items() if f"{name}.".startswith(f"{key}.")]
        if got and got[0] not in only:
            raise ComposeError(f"hydra.{key} must be {only[-1]} under -m, got {got[0]}")
    for callback in callbacks.callbacks:
        for name in ("on_job_start", "on_job_end"):
            if getattr(type(callback), name, None) not in (None, getattr(Callback, name)):
                raise ComposeError(
                    f"hydra.callbacks must not have {name} under -m, for jobs run in other"
                    f" processes; got {type(callback).__name__}"
                )


class SharedSettings:
    """What all jobs of a sweep share of Hydra's part: no file that a job chooses may change it."""

    def __init__(self, loader: Any, sweep: DictConfig) -> None:
        self._sweep = _flat(sweep)
        self._files = files_of(loader, sweep)

    def check(self, config: DictConfig) -> None:
        """Refuse a configuration, Hydra's part included; raises `ComposeError`."""
        choices = config.hydra.runtime.choices
        for group, choice in choices.items():
            for other, required in self._overridden(group, choice):
                if choices.get(other) != required:
                    raise ComposeError(
                        f"{other} must be chosen on the command line: {group}={choice} asks for"
                        f" {other}={required}, and the sweep has {choices.get(other)}"
                    )
        own, shared = _flat(config), self._sweep
        for key in sorted(own.keys() | shared.keys()):
            if own.get(key) != shared.get(key) and not key.startswith(_OF_EACH):
                raise ComposeError(
                    f"hydra.{key} must be the same for all jobs of a sweep, got"
                    f" {own.get(key, 'null')} and {shared.get(key, 'null')}"
                )

    def _overridden(self, group: str, choice: Any) -> Iterator[tuple[str, Any]]:
        """Yield the groups of Hydra that a file overrides; Hydra lets the main file win."""
        if group.startswith("hydra/") or not isinstance(choice, str):
            return
        loaded = self._files.load_config(f"{group.partition('@')[0]}/{choice}")
        for default in () if loaded is None else loaded.defaults_list:
            if default.is_override() and default.group.startswith(("/hydra/", "hydra/")):
                yield default.group.lstrip("/"), default.value


@contextmanager
def environment(config: DictConfig) -> Iterator[None]:
    """Set the variables of `hydra.job.env_set` in this block: workers that it starts have them."""
    written: Any = OmegaConf.to_container(config.hydra.job.env_set)
    for name, value in written.items():
        if _SETTING.search(value):
            raise ComposeError(
                f"hydra.job.env_set.{name} must not depend on settings, for all jobs of a sweep"
                f" share it; got {value}"
            )
    with env_override(dict(config.hydra.job.env_set)):
        yield


def _flat(config: DictConfig) -> dict[str, str]:
    """Return the settings of Hydra by their keys, without `hydra.`, as they are written."""
    return dict(flat(OmegaConf.to_container(config.hydra)))
