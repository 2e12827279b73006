"""What cannot become a job, told before anything is read or a slow library imported."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

from dfkde.choices import check_localizer
from harness.config import Config
from harness.crop import check_center_crop
from harness.features import LazyExtractor
from harness.features.choice import check_numbers, input_shape

_LONGEST_NAME = 100
_NO_TEXT = ("Cc", "Cs")
"""Unicode's categories of control characters and of halves of characters."""


def check_settings(configs: Sequence[Config], *, weights: bool = True) -> None:
    """Refuse settings of jobs: names, sizes, numbers, the localizer, the backbone and its weights.

    Parameters
    ----------
    configs : sequence of Config
        One for each job; a backbone that many of them share is looked at once.
    weights : bool
        Whether the jobs run on this machine, so that weights must be here or can be fetched.

    Raises
    ------
    ValueError
        In one line: the setting, its rule, its value and its choices.
    """
    for config in configs:
        _check_names(config)
        check_center_crop(config.center_crop, image_size=config.image_size)
        _check_pixel_resolution(config.pixel_resolution)
        _check_threshold_quantile(config.threshold_quantile)
        check_localizer(config.localizer)
        features = config.features
        check_numbers(workers=features.workers, cache_limit_gb=features.cache_limit_gb)
    # By their text, for the settings hold lists and cannot be hashed.
    for config in {_network(config): config for config in configs}.values():
        extractor = LazyExtractor(
            config.backbone,
            cache=config.features.cache,
            random_seed=config.seed if config.allow_random_weights else None,
        )
        extractor.check(_shape(config) if weights else None)


def _network(config: Config) -> str:
    size = (config.image_size, config.center_crop, config.allow_random_weights)
    return f"{config.backbone} {config.features} {size}"


def _shape(config: Config) -> tuple[int, int, int, int]:
    return input_shape(
        config.features, image_size=config.image_size, center_crop=config.center_crop
    )


def _check_names(config: Config) -> None:
    """Refuse names that no store, or no line of a summary, holds."""
    names = {
        "dataset.name": config.dataset.name,
        "category": " " if config.category is None else config.category,
        "model.name": config.model.name,
        "backbone.name": config.backbone.name,
    }
    for key, name in names.items():
        if not 0 < len(name) <= _LONGEST_NAME or any(category(c) in _NO_TEXT for c in name):
            raise ValueError(
                f"{key} must be 1 to {_LONGEST_NAME} characters without control characters,"
                f" got {name!r}"
            )


def _check_pixel_resolution(side: int | None) -> None:
    if side is not None and side < 1:
        raise ValueError(f"pixel_resolution must be null (native) or at least 1, got {side}")


def _check_threshold_quantile(quantile: float | None) -> None:
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(
            f"threshold_quantile must be null, or above 0 and at most 1, got {quantile}"
        )
