"""The typed settings of one job: what stands behind Hydra's border.

Plain dataclasses, free of hydra and torch, so that every part of the harness may import them.
`harness.compose` registers `Config` as Hydra's schema: an unknown key or a value of the wrong type
fails while the configuration is composed, before any work. (They are not frozen, for omegaconf
would refuse to compose into a frozen schema; nothing behind the border writes to them.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dfkde.backbones.presence import is_random


def conf_dir() -> Path:
    """Return the folder of `dataset/`, `backbone/`, ...: `harness/conf`, else `conf`.

    Raises
    ------
    FileNotFoundError
        If neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "dataset").is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder 'conf' in '{package}' or beside it")


# What omegaconf takes for "mandatory, no default" (omegaconf.MISSING), written out so that this
# module needs no omegaconf.
_MANDATORY: Any = "???"


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
        For the layout `folder`: the names of its folders.
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
        """The backbone as run names and tables write it: random weights are told."""
        return f"{self.name} (random weights)" if self.random else self.name


@dataclass
class ModelConfig:
    """The density model on the pooled features (`conf/model/*.yaml`).

    Attributes
    ----------
    name : str
        The model, as written in tables and run names.
    factory : str
        `module:class`, an estimator with `fit`, `score_samples` and `anomaly_score`.
    params : dict
        Keyword arguments of the class.
    """

    name: str = _MANDATORY
    factory: str = _MANDATORY
    params: dict[str, Any] = field(default_factory=dict)


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
        What the names of experiments begin with: `alice/` keeps runs in `alice/mvtec`. A run under
        another prefix makes no job needless.
    """

    kind: str = "mlflow"
    uri: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Job:
    """One cell of a table: every setting that determines its numbers.

    `swept` is none of them: it names what sets the job apart from others of its sweep with its
    cell, as `told_apart` finds it.
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

    def protocol(self) -> dict[str, object]:
        """Return what determines the numbers beside data, weights, model and seed.

        A setting that is added later is left out where it has its default: identities stored
        before it was there stay valid.
        """
        names = (
            "image_size",
            "center_crop",
            "localizer",
            "n_train",
            "train_contamination",
            "pixel_resolution",
            "threshold_quantile",
        )
        values = {name: getattr(self, name) for name in names}
        layout = {f"dataset.{name}": value for name, value in self._layout().items()}
        given = self.backbone.arguments.items()
        return values | layout | {f"backbone.arguments.{name}": value for name, value in given}

    def _layout(self) -> dict[str, object]:
        """Return what a dataset's reader is told beside the files, where it heeds it."""
        dataset = self.dataset
        values: dict[str, object] = {"reader": dataset.reader}
        if dataset.train_share is not None:  # only where the layout has no split of its own
            values["train_share"] = dataset.train_share
        if dataset.reader == "folder":
            # The files are the same whichever folder is said to hold the normal ones.
            values |= {"normal_dir": dataset.normal_dir, "abnormal_dir": dataset.abnormal_dir}
        return values

    def __str__(self) -> str:
        """Name the job as its run is named."""
        swept = f" · {self.swept}" if self.swept else ""
        return (
            f"{self.dataset.name}/{self.category} · {self.model.name}"
            f" · {self.backbone.label} · s{self.seed}{swept}"
        )


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
    localizer: str = "occlusion"
    n_train: int | None = None
    train_contamination: float = 0.0
    pixel_resolution: int | None = None
    threshold_quantile: float | None = None
    allow_random_weights: bool = False
    save_model: bool = False
    force: bool = False
    fail_fast: bool = False

    def job(self) -> Job:
        """Take the job out."""
        names = (field.name for field in fields(Job) if field.name != "swept")
        return Job(**{name: getattr(self, name) for name in names})


# What the name of a job tells already, or holds in part.
_NAMED = ("category", "seed", "swept", "dataset.name", "dataset.categories")


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a sweep, each with the settings by which it differs from others.

    Datasets, models and backbones of different names are different anyway: their settings are
    compared with those of the same name only.

    Parameters
    ----------
    jobs : sequence of Job
        All jobs of the sweep.

    Returns
    -------
    list of Job
        With `swept` as their names have it: `image_size=224 · n_train=20`, in the words of the
        command line.
    """
    settings = [list(_settings(job)) for job in jobs]
    having = Counter(chain.from_iterable(settings))
    sizes = Counter(scope for job in jobs for scope in ("", *_scopes(job).values()))
    apart = [
        [f"{key}={value}" for scope, key, value in own if having[scope, key, value] < sizes[scope]]
        for own in settings
    ]
    return [replace(job, swept=" · ".join(own)) for job, own in zip(jobs, apart, strict=True)]


def _scopes(job: Job) -> dict[str, str]:
    """Return among which jobs the settings of a group are compared."""
    return {
        "dataset": f"dataset {job.dataset.name}",
        "model": f"model {job.model.name}",
        "backbone": f"backbone {job.backbone.label}",
    }


def _settings(job: Job) -> Iterator[tuple[str, str, str]]:
    """Yield scope, key and value of each setting that the job's name does not tell."""
    scopes = _scopes(job)
    for key, value in _flat(asdict(job), ""):
        if key not in _NAMED and (key, value) != ("model.params.random_state", str(job.seed)):
            yield scopes.get(key.partition(".")[0], ""), key, value


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield settings by their keys, as the command line takes them."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _flat(below, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        yield key, f"[{','.join(map(str, value))}]"
    elif value is None or isinstance(value, bool):
        yield key, "null" if value is None else str(value).lower()
    else:
        yield key, str(value)
