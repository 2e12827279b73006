"""Jobs that cannot work, refused before any of them starts: in one line, and without a run."""

from __future__ import annotations

import re
import resource
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from unicodedata import category

from dfkde.backbones.presence import CHECKPOINTS, LITE, PARTS, TORCHVISION
from dfkde.registry import ESTIMATORS, check_localizer
from harness.config import BackboneConfig, Config
from harness.features.settings import check_features, input_shape, resolve_device
from harness.provenance import code_digest
from harness.system.threads import available, group_folders

_LONGEST_NAME = 100
# Unicode's categories of control characters and of halves of characters.
_NO_TEXT = ("Cc", "Cs")
# Seeds below it are those that numpy's and scikit-learn's generators take.
_SEEDS = 2**32

# How many float32 numbers at least exist at once for each pixel of a batch: as the images are
# given, normalised, and as the network's first layer returns them, which in usual networks are no
# fewer. On a GPU only the first are in the memory of the machine.
_NUMBERS = {"cpu": 9, "cuda": 3}
# Activations for each pixel that exist at once, of the networks that are known: the output of a
# ResNet's first convolution (64 channels at stride 2), and input and output of EfficientNet-Lite's
# first expansion (16 and 96 channels at stride 2).
_RESNET, _LITE = 16, 28
# Bytes of a pixel in the pixel metrics at least: its anomaly score, and its ground truth.
_PIXEL = 9
# Models of ours with these parameters can be fitted on so many images: they need not be imported.
_USUAL: tuple[dict[str, int], ...] = ({}, {"n_components": 16, "max_training_points": 40_000})
_ENOUGH = 20


def check_jobs(configs: Sequence[Config], *, local: bool = True) -> None:
    """Refuse jobs whose settings, weights, images or model cannot be, in this order.

    With `local=False` the jobs run on other machines, which may have images, weights and files that
    this one has not.
    """
    check_settings(configs, weights=local)
    check_images(configs, local=local)


def check_images(configs: Sequence[Config], *, local: bool) -> None:
    """Refuse categories that are not here, and models that cannot be fitted on their images."""
    counts = _count_images(configs) if local else {}
    for config in configs:
        _check_model(config, counts.get(_place(config)))


def check_settings(configs: Sequence[Config], *, weights: bool = True) -> None:
    """Refuse settings of jobs: names, sizes, numbers, the localizer, the backbone and its weights.

    Sizes are refused that certainly do not fit into the memory that this process may have. With
    `weights=False` the jobs run on another machine: whether weights can be had, the cache and the
    memory are not checked.
    """
    for config in configs:
        _check_names(config)
        _check_numbers(config)
        _check_choices(config)
    if weights:
        memory = memory_limit()
        for config in configs:
            _check_factory(config.backbone.factory)
            _check_memory(config, memory)
            cache = config.features.cache
            if cache is not None and Path(cache).exists() and not Path(cache).is_dir():
                rule = "features.cache must be null or a folder"
                raise ValueError(f"{rule}, got {cache!r}, which is none")
    from harness.features.extractor import LazyExtractor  # numpy is imported for it

    networks = {}  # by their text, for the settings hold lists and cannot be hashed
    for config in configs:
        size = config.image_size, config.center_crop, config.allow_random_weights
        networks[f"{config.backbone} {config.features} {size} {config.job().map_layers}"] = config
    for config in networks.values():
        extractor = LazyExtractor(
            config.backbone,
            cache=config.features.cache,
            random_seed=config.seed if config.allow_random_weights else None,
            maps_of=config.job().map_layers,
        )
        extractor.check(_shape(config) if weights else None)


def memory_limit(root: Path = Path("/")) -> float:
    """Return how many bytes this process can have at most, swap included.

    What is available on the machine now, what its control groups (`memory.max`, or
    `memory.limit_in_bytes`) allow, and `ulimit -v`: the least of them; infinity where none is
    known. `proc` and `sys` are mounted below `root`.
    """
    kept: dict[str, float] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            kept[name] = 1024 * float(value.split()[0])
    limits = [kept.get("MemAvailable", float("inf"))]
    for folder in group_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of either version
            with suppress(OSError, ValueError):  # no such limit, or `max`
                limits.append(float((folder / name).read_text()))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    given = float("inf") if address_space == resource.RLIM_INFINITY else address_space
    return min(min(limits) + kept.get("SwapFree", 0), given)


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
            rule = f"{key} must be 1 to {_LONGEST_NAME} characters without control characters"
            raise ValueError(f"{rule}, got {name!r}")


def _check_numbers(config: Config) -> None:
    size, crop = config.image_size, config.center_crop
    check_features(config.features, image_size=size, center_crop=crop)
    side, quantile, n_train = config.pixel_resolution, config.threshold_quantile, config.n_train
    rules = {
        "pixel_resolution": (side is None or side >= 1, "null (native) or at least 1"),
        "threshold_quantile": (
            quantile is None or 0 < quantile <= 1,
            "null, or above 0 and at most 1",
        ),
        "seed": (0 <= config.seed < _SEEDS, f"an integer from 0 to {_SEEDS - 1}"),
        "n_train": (n_train is None or n_train >= 1, "null (all) or at least 1"),
        "train_contamination": (0 <= config.train_contamination < 1, "at least 0 and below 1"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(config, name)}")


def _check_choices(config: Config) -> None:
    from harness.data.load import check_dataset

    job = config.job()
    check_localizer(job.localizer)
    _ = job.map_layers  # raises where the model has none for the backbone
    check_dataset(config.dataset, str(config.category))
    if config.save_model and config.tracking.kind == "none":
        raise ValueError("save_model must be false where tracking.kind is none, got true")


def _check_factory(factory: str) -> None:
    """Refuse a backbone's factory of which the module, or the name in it, is not here."""
    module, _, name = factory.rpartition(":")
    rule = "backbone.factory must be module:function or path/to/file.py:function"
    try:
        spec = None if module.endswith(".py") or not module else find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{rule}, got {factory!r}: {error}") from None
    file = Path(module if module.endswith(".py") else (spec and spec.origin) or "")
    if spec is None and not file.is_file():
        raise ValueError(f"{rule} that can be imported here, got {factory!r}")
    if file.suffix == ".py" and not re.search(rf"\b{re.escape(name)}\b", file.read_text("utf-8")):
        raise ValueError(f"{rule}, got {factory!r}: {file} names no {name}")


def _count_images(configs: Sequence[Config]) -> dict[str, int]:
    """Return the number of training images of each category, and refuse those that are not here."""
    from harness.data.listing import AbsentError, DataError
    from harness.data.load import list_images

    counts: dict[str, int] = {}
    absent: dict[str, str] = {}
    every = {_place(config): config for config in configs}
    for place, config in every.items():
        try:
            _, listing = list_images(config.dataset, str(config.category), seed=config.seed)
            counts[place] = len(listing.train)
        except AbsentError as error:
            absent[place] = str(error)
        except DataError:  # what is there and broken costs its own job only
            pass
    if absent:
        first = next(iter(absent.values()))
        rest = [str(config.category) for place, config in every.items() if place not in absent]
        if not rest:
            raise AbsentError(first)
        names = ", ".join(_cell(every[place]) for place in absent)
        plain = all(re.fullmatch(r"\w[\w.-]*", name) for name in rest)
        quoted = rest if plain else ["'{}'".format(name.replace("'", "\\'")) for name in rest]
        override = shlex.quote(f"category={','.join(dict.fromkeys(quoted))}")
        count = f"{len(absent)} of {len(every)} categories are not here"
        raise AbsentError(f"{override} runs the rest: {count}, {names}: {first}")
    return counts


def _place(config: Config) -> str:
    return f"{config.dataset} {config.category}"  # by its text, as it cannot be hashed


def _cell(config: Config) -> str:
    return f"{config.dataset.name}/{config.category}"


def _check_model(config: Config, n_images: int | None) -> None:
    """Refuse a model that cannot be built, or not be fitted on so many images; None if unknown."""
    n_train = config.n_train
    if n_images is not None and n_train is not None and n_train > n_images:
        raise ValueError(
            f"n_train must be between 1 and the {n_images} training images of {_cell(config)},"
            f" got {n_train}"
        )
    n_fitted = n_images if n_train is None else n_train
    model = config.model
    params = {name: value for name, value in model.params.items() if name != "random_state"}
    usual = model.factory in ESTIMATORS and params in _USUAL and not model.layers
    if usual and (n_fitted or _ENOUGH) >= _ENOUGH:
        return
    code_digest(config.job())  # of what the job runs, before any of it is imported
    from harness.fitting import build_model, check_holding_out, check_kind

    built = build_model(model)
    check_kind(config.job(), built)
    least = getattr(built, "min_samples", 1)
    if n_fitted is None:
        return
    share = config.train_contamination  # what it adds is fitted too
    n_fitted += round(share / (1 - share) * n_fitted)
    if n_fitted < least:
        raise ValueError(
            f"{model.name} needs at least {least} training images with these settings,"
            f" got {n_fitted} of {_cell(config)}"
        )
    if config.save_model or config.threshold_quantile is not None:
        asked = (
            "save_model must be false" if config.save_model else "threshold_quantile must be null"
        )
        check_holding_out(config.job(), n_fitted, setting=asked)


def _check_memory(config: Config, memory: float) -> None:
    """Refuse sizes of which a few arrays alone take more bytes than there are."""
    workers = config.features.workers or available()
    batch, channels, height, width = _shape(config)
    usual = _NUMBERS[resolve_device(config.features.device)]
    # Threads may reach their peaks one after the other, so one counts in full.
    numbers = (workers - 1) * usual + max(usual, _known_numbers(config))
    # Before it is cropped, a resized image has a byte for each number.
    resized = workers * channels * config.image_size**2
    needed = max(numbers * batch * 4 * height * width, resized)
    if needed > memory:
        raise ValueError(
            f"image_size must be such that a batch fits into memory: with batches of {batch} and"
            f" {workers} workers, {_gb(needed)} are needed at least, and there are {_gb(memory)};"
            f" got {config.image_size}"
        )
    side = config.pixel_resolution
    if side is not None and config.job().localizer != "none" and _PIXEL * side**2 > memory:
        raise ValueError(
            "pixel_resolution must be such that an anomaly map fits into memory:"
            f" {_gb(_PIXEL * side**2)} are needed at least, and there are {_gb(memory)}; got {side}"
        )


def _known_numbers(config: Config) -> float:
    """Return what `_NUMBERS` is for a network that is known on a CPU: images and activations."""
    backbone, features = config.backbone, config.features
    if resolve_device(features.device) != "cpu":
        return 0
    activations = _activations(backbone)
    return 3 + activations / (2 if features.precision == "bf16" else 1) if activations else 0


def _activations(backbone: BackboneConfig) -> int:
    if backbone.factory == TORCHVISION:
        known = {architecture for architecture, _ in CHECKPOINTS}
        return _RESNET if str(backbone.arguments.get("architecture")) in known else 0
    # What lies behind the last layer asked for is not computed.
    behind = {layer.partition(".")[0] for layer in backbone.layers} - set(PARTS[LITE][:3])
    return _LITE if backbone.factory == LITE and behind else 0


def _shape(config: Config) -> tuple[int, int, int, int]:
    size, crop = config.image_size, config.center_crop
    return input_shape(config.features, image_size=size, center_crop=crop)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB"
