"""The typed settings of one job, and the name of a job among others.

Plain dataclasses, free of hydra and torch. `harness.compose` registers `Config` as Hydra's schema:
an unknown key or a value of the wrong type fails while the configuration is composed. Only `Job` is
frozen, for omegaconf does not compose into frozen classes; nothing writes to the others either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dfkde.backbones.presence import is_random

# omegaconf.MISSING, for a setting that has no default; this module needs no omegaconf.
_MANDATORY: Any = "???"

_STAGE = re.compile(r"layer\d+|(blocks|stages|features)(\.\d+)?")
# What the name of a job says already, or holds in part.
_NAMED = ("category", "seed", "dataset.name", "dataset.categories")


@dataclass
class DatasetConfig:
    """Where a dataset lies and how it is read (`conf/dataset/*.yaml`).

    Attributes
    ----------
    name : str
        The dataset, as written in tables and run names: `mvtec`.
    title : str
        Its name for people: `MVTec AD`.
    reader : str
        The layout on disk: one of `harness.data.READERS`.
    categories : list of str
        In the order of the tables. Always text: BTAD's are `"01"`, `"02"`, `"03"`.
    root : str, optional
        The folder that holds the categories; else `$DFKDE_DATA/<name>`, else `data/<name>`.
    official : bool
        Whether a category must equal the published dataset; `false` runs it as *unofficial*.
    train_share : float, optional
        For layouts without a split of their own: the share of the normal images that train.
    normal_dir, abnormal_dir, mask_dir : str
        For the layout `folder`: its folders, each a name or a path such as `train/good`.
    mask_ending : str
        For the layouts `folder` and `tree`: what the name of a mask may have behind that of its
        image.
    exclude : list of str, str or None
        Files to leave out on purpose: patterns of names relative to the root, or `@FILE`, a file
        with one in each line. Whatever is left out makes the data unofficial.
    max_pixels : int, optional
        The largest image that is read, in pixels; null for Pillow's limit of 89,478,485.
    bits : int
        How many of the 16 bits of a 16-bit image are used, 8 to 16; of these the upper 8 are kept.
    """

    name: str = _MANDATORY
    title: str = _MANDATORY
    reader: str = _MANDATORY
    categories: list[str] = _MANDATORY
    root: str | None = None
    official: bool = True
    train_share: float | None = None
    normal_dir: str = "normal"
    abnormal_dir: str = "abnormal"
    mask_dir: str = "masks"
    mask_ending: str = "_mask"
    exclude: Any = None  # omegaconf has no union of a list and a text
    max_pixels: int | None = None
    bits: int = 16

    @property
    def folders(self) -> tuple[str, str, str]:
        """The folders of the layout `folder`: normal, abnormal, masks; no slash at their ends."""
        names = self.normal_dir, self.abnormal_dir, self.mask_dir
        normal, abnormal, mask = (name.rstrip("/") for name in names)
        return normal, abnormal, mask


@dataclass
class BackboneConfig:
    """The network that gives the features (`conf/backbone/*.yaml`).

    Attributes
    ----------
    name : str
        The backbone, as written in tables and run names.
    factory : str
        `module:function`; the function takes `arguments` and returns a `torch.nn.Module`.
    arguments : dict
        Keyword arguments of the factory.
    weights : str, optional
        A named set of weights of the architecture, or the path of a local state dict. Null for a
        factory that brings its own; a network of torchvision or timm then has random weights,
        which `allow_random_weights` must allow.
    layers : list of str
        Names of the modules whose outputs are average-pooled and concatenated.
    mean, std : list of float, optional
        Per-channel normalisation of RGB in [0, 1]; null takes the network's own.
    """

    name: str = _MANDATORY
    factory: str = _MANDATORY
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    layers: list[str] = _MANDATORY
    mean: list[float] | None = _MANDATORY
    std: list[float] | None = _MANDATORY

    @property
    def random(self) -> bool:
        """Whether the network is one of torchvision's or timm's without weights."""
        return is_random(self.factory, arguments=self.arguments, weights=self.weights)

    @property
    def label(self) -> str:
        """The backbone as run names and tables write it: random weights are pointed out."""
        return f"{self.name} (random weights)" if self.random else self.name


@dataclass
class ModelConfig:
    """The model, on pooled features or on the maps of layers (`conf/model/*.yaml`).

    Attributes
    ----------
    name : str
        The model, as written in tables and run names.
    factory : str
        `module:class`, a `dfkde.AnomalyDetector` or a `dfkde.MapDetector`.
    params : dict
        Keyword arguments of the class.
    layers : dict of list of str
        For a model that scores the maps of layers instead of pooled features: which, by the name
        of the backbone. Such a model makes its own anomaly maps.
    """

    name: str = _MANDATORY
    factory: str = _MANDATORY
    params: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class FeaturesConfig:
    """How features are extracted (`conf/features/*.yaml`).

    `engine`, `precision`, `device` and `resize` decide the numbers and are part of a job's
    identity: engine and device their last digits only, precision and resize the second or third
    digit of AUROC. The rest changes speed and disk space only.

    Attributes
    ----------
    engine : str
        `auto`, `torch`, `onnxruntime` or `openvino`. `auto` takes torch on a GPU; on a CPU ONNX
        Runtime where it is installed, else torch.
    precision : str
        `fp32`, or `bf16`: faster on recent processors, but it moves AUROC in the second digit.
    device : str
        `auto`, `cpu` or `cuda`.
    resize : str
        `pil`, antialiased bilinear on 8-bit images, or `float_antialias`, the same filter on
        float images, as other pipelines resize.
    maps : bool
        Whether to keep feature maps beside the pooled features where there are masks. `false`
        saves disk space: each job with a localizer then computes its images a second time.
    workers : int
        Threads that read and compute, 0 for one per available core.
    cache : str, optional
        Folder of the feature cache; null keeps features only as long as the process.
    cache_limit_gb : float, optional
        Size of the cache in 10^9 bytes above which the least recently used features go; no limit
        by default.
    """

    engine: str = "auto"
    precision: str = "fp32"
    device: str = "auto"
    resize: str = "pil"
    maps: bool = True
    workers: int = 0
    cache: str | None = "cache"
    cache_limit_gb: float | None = None


@dataclass
class TrackingConfig:
    """Where runs are kept (`conf/tracking/*.yaml`).

    Attributes
    ----------
    kind : str
        `mlflow`, or `none` to keep no run.
    uri : str, optional
        An MLflow tracking URI; by default the SQLite store of this checkout.
    prefix : str
        What the names of experiments begin with: `alice/` keeps runs in `alice/mvtec`. Runs under
        another prefix do not count as done.
    """

    kind: str = "mlflow"
    uri: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Job:
    """One cell of a table: every setting that determines its numbers.

    The settings are explained in `conf/config.yaml`. `swept` is none of them: it says what
    distinguishes the job from others of its sweep, as `name_differences` finds it. Nor are
    `pass_layers` and `pass_pooled`, which say what the sweep needs of an image, as
    `share_extraction` finds it: one forward pass gives all of it.
    """

    dataset: DatasetConfig
    category: str
    backbone: BackboneConfig
    model: ModelConfig
    features: FeaturesConfig
    seed: int = 42
    image_size: int = 256
    center_crop: int | None = None
    localizer: str = "occlusion"
    n_train: int | None = None
    train_contamination: float = 0.0
    pixel_resolution: int | None = None
    threshold_quantile: float | None = None
    allow_random_weights: bool = False
    swept: str = field(default="", compare=False)
    pass_layers: tuple[str, ...] = field(default=(), compare=False)
    pass_pooled: bool = field(default=False, compare=False)

    @property
    def map_layers(self) -> tuple[str, ...]:
        """The layers whose maps the model scores; none for a model on pooled features.

        Raises
        ------
        ValueError
            If the model names none for the backbone, or there is a localizer for its own maps.
        """
        if not self.model.layers:
            return ()
        if self.localizer != "none":
            raise ValueError(
                f"localizer must be null for {self.model.name}, which makes its own anomaly maps,"
                f" got {self.localizer!r}"
            )
        layers = self.model.layers.get(self.backbone.name)
        if not layers:
            raise ValueError(
                f"model.layers of {self.model.name} must name the layers of the backbone"
                f" {self.backbone.name!r} (+model.layers.{self.backbone.name}=[...]);"
                f" it has those of {', '.join(self.model.layers)}"
            )
        return tuple(layers)

    def protocol(self) -> dict[str, object]:
        """Return what determines the numbers beside data, weights, model and seed.

        A setting that is added later is left out where it has its default: identities stored
        before it was there stay valid.
        """
        dataset = self.dataset
        layout: dict[str, object] = {"dataset.reader": dataset.reader}
        if dataset.train_share is not None:  # only where the layout has no split of its own
            layout["dataset.train_share"] = dataset.train_share
        if dataset.reader == "folder":
            # The files are the same whichever folder holds the normal ones.
            normal, abnormal, _ = dataset.folders
            layout |= {"dataset.normal_dir": normal, "dataset.abnormal_dir": abnormal}
        if dataset.bits != 16:
            layout["dataset.bits"] = dataset.bits
        given = self.backbone.arguments.items()
        return {
            "image_size": self.image_size,
            "center_crop": self.center_crop,
            "localizer": self.localizer,
            "n_train": self.n_train,
            "train_contamination": self.train_contamination,
            "pixel_resolution": self.pixel_resolution,
            "threshold_quantile": self.threshold_quantile,
            **layout,
            **{f"backbone.arguments.{name}": value for name, value in given},
        }

    def __str__(self) -> str:
        """Name the job as its run is named."""
        swept = f" · {self.swept}" if self.swept else ""
        return (
            f"{self.dataset.name}/{self.category} · {self.model.name}"
            f" · {self.backbone.label} · s{self.seed}{swept}"
        )


OF_THE_SWEEP = ("swept", "pass_layers", "pass_pooled")
"""What a job holds beside its settings."""


@dataclass
class Config:
    """The whole configuration, as composed from `conf/`: a job and how to run it."""

    dataset: DatasetConfig = _MANDATORY
    backbone: BackboneConfig = _MANDATORY
    model: ModelConfig = _MANDATORY
    features: FeaturesConfig = _MANDATORY
    tracking: TrackingConfig = _MANDATORY
    category: str | None = None
    seed: int = 42
    image_size: int = 256
    center_crop: int | None = None
    localizer: str | None = None
    n_train: int | None = None
    train_contamination: float = 0.0
    pixel_resolution: int | None = None
    threshold_quantile: float | None = None
    allow_random_weights: bool = False
    save_model: bool = False
    force: bool = False
    fail_fast: bool = False
    plan: bool = False

    def job(self) -> Job:
        """Return the job alone; a localizer of null is the one of the model's kind."""
        names = (field.name for field in fields(Job) if field.name not in OF_THE_SWEEP)
        job = Job(**{name: getattr(self, name) for name in names})
        own = "none" if self.model.layers else "occlusion"
        return replace(job, localizer=own) if self.localizer is None else job


def conf_dir() -> Path:
    """Return the folder of `dataset/`, `backbone/`, ...: `harness/conf`, else `conf`."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "dataset").is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder 'conf' in '{package}' or beside it")


def without_seed(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a model's parameters without a `random_state` that is the job's seed.

    >>> without_seed({"k": 1, "random_state": 42}, 42), without_seed({"random_state": 7}, 42)
    ({'k': 1}, {'random_state': 7})
    """
    return {k: v for k, v in params.items() if k != "random_state" or v != seed}


def name_differences(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a sweep with `swept`: the settings by which each differs from others.

    `swept` is written as on the command line: `image_size=224 · n_train=20`. Datasets, models and
    backbones of different names are different anyway: their settings are compared with those of the
    same name only.
    """
    settings = [list(_settings(job)) for job in jobs]
    having = Counter(chain.from_iterable(settings))
    sizes = Counter(scope for job in jobs for scope in ("", *_scopes(job).values()))
    apart = [
        [f"{key}={value}" for scope, key, value in own if having[scope, key, value] < sizes[scope]]
        for own in settings
    ]
    return [replace(job, swept=" · ".join(own)) for job, own in zip(jobs, apart, strict=True)]


def share_extraction(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a sweep with what all of them need of an image, by backbone.

    A job whose layers are not all stages has a pass of its own.
    """
    sharing = [job for job in jobs if all_stages(job.map_layers)]
    layers: dict[str, set[str]] = {}
    for job in sharing:
        layers.setdefault(str(job.backbone), set()).update(job.map_layers)
    pooled = {str(job.backbone) for job in sharing if not job.map_layers}
    return [
        replace(
            job,
            pass_layers=tuple(sorted(layers[str(job.backbone)])),
            pass_pooled=str(job.backbone) in pooled,
        )
        if all_stages(job.map_layers)
        else job
        for job in jobs
    ]


def all_stages(layers: Iterable[str]) -> bool:
    """Return whether layers are stages of a network, by the names that libraries give them.

    What a stage returns exists in any case. To return what is inside of a block, an engine cannot
    fuse some operations, which changes the last bits of all that follows.
    """
    return all(_STAGE.fullmatch(layer) for layer in layers)


def _scopes(job: Job) -> dict[str, str]:
    """Return among which jobs the settings of a group are compared."""
    return {
        "dataset": f"dataset {job.dataset.name}",
        "model": f"model {job.model.name}",
        "backbone": f"backbone {job.backbone.label}",
        "localizer": "models on maps" if job.model.layers else "models on pooled features",
    }


def _settings(job: Job) -> Iterator[tuple[str, str, str]]:
    """Yield scope, key and value of each setting that the job's name does not say."""
    scopes, seed = _scopes(job), ("model.params.random_state", str(job.seed))
    for key, value in flat(asdict(job)):
        if key not in (*_NAMED, *OF_THE_SWEEP) and (key, value) != seed:
            yield scopes.get(key.partition(".")[0], ""), key, value


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by their keys, as the command line takes them."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from flat(below, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        yield key, f"[{','.join(map(str, value))}]"
    elif value is None or isinstance(value, bool):
        yield key, "null" if value is None else str(value).lower()
    else:
        yield key, str(value)
