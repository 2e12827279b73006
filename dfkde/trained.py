"""A trained detector: saved to a folder as JSON and arrays, loaded anywhere to equal scores.

There is no pickle: loading imports this project's own models and backbones and, of what else the
files name, only what the caller trusts. Checksums find slips, such as a broken copy or files of two
detectors mixed up; they are no defence against somebody who changes a detector on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dfkde.backbones.presence import WeightsError, check_weights
from dfkde.registry import TrustError, check_trusted, resolve, untrusted

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from dfkde.base import AnomalyDetector, Array
    from dfkde.extractor import FeatureExtractor
    from dfkde.localizers import Localizer
    from dfkde.maps import MapDetector

_FORMAT = 2
_STATE, _ARRAYS = "detector.json", "detector.safetensors"
# What a file that is no detector, or a damaged one, may raise while it is read.
_FAULTS = (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Backbone:
    """Which network gives the features: enough to build it again and to recognise it.

    Attributes
    ----------
    factory, arguments, weights
        As `load_backbone` takes them.
    layers : list of str
        As `FeatureExtractor` takes them.
    mean, std : list of float
        Per-channel normalisation of RGB in [0, 1].
    digest : str
        `FeatureExtractor.digest` of the network that the detector was trained with.
    seed : int, optional
        Of random weights, as `load_backbone` takes it.
    maps_of : list of str
        For a model on maps, the layers whose maps it scores, in its order.
    """

    factory: str
    arguments: dict[str, Any]
    weights: str | None
    layers: list[str]
    mean: list[float]
    std: list[float]
    digest: str
    seed: int | None = None
    maps_of: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path, *, trusted: Sequence[str] = ()) -> Self:
        """Read the backbone of a saved detector, without its arrays and what its model needs.

        Parameters
        ----------
        folder : Path
            Where the detector was saved.
        trusted : sequence of str
            As in `TrainedDetector.load`; the backbone's factory alone has to be trusted.

        Raises
        ------
        TrustError, ValueError
            As in `TrainedDetector.load`; a damaged `detector.safetensors` is not noticed.
        """
        with _faults_in_one_line(folder):
            state = _read_state(folder)
            backbone = cls(**state["backbone"])
            if untrusted([backbone.factory], trusted):  # the error lists all that needs trust
                _check_names(state, trusted, folder=folder)
            return backbone

    def check(self) -> None:
        """Refuse weights that this machine lacks and cannot download, without importing torch.

        Raises
        ------
        WeightsError
            In one line: the file's address and where to put it.
        """
        try:
            check_weights(self.factory, arguments=self.arguments, weights=self.weights)
        except WeightsError as error:  # the detector takes no other backbone
            raise error.without_others() from None

    def extractor(self) -> FeatureExtractor:
        """Build the feature extractor; the factory is imported, for `load` has checked it.

        Raises
        ------
        ValueError
            If the network cannot be built, or its digest is another than in training.
        WeightsError
            As in `check`.
        """
        from dfkde import FeatureExtractor, load_backbone

        self.check()
        module = load_backbone(
            self.factory, arguments=self.arguments, weights=self.weights, seed=self.seed
        )
        extractor = FeatureExtractor(
            module, self.layers, mean=self.mean, std=self.std, maps_of=self.maps_of
        )
        self.check_digest(extractor.digest)
        return extractor

    def check_digest(self, digest: str) -> None:
        """Raise a ValueError for a network whose digest is another than in training."""
        if digest != self.digest:
            raise ValueError(
                f"the backbone {self.factory} must be the one of training, SHA-256 {self.digest},"
                f" got {digest}"
            )


@dataclass(frozen=True)
class TrainedDetector:
    """All that scoring an image needs.

    Attributes
    ----------
    model : AnomalyDetector or MapDetector
        Fitted on pooled features, or on the maps of the backbone's `maps_of`.
    localizer : Localizer, optional
        Fitted with that model; None for no anomaly maps.
    backbone : Backbone
        Where features come from.
    inputs : dict
        How images are read, as the caller needs it: plain values by name.
    train_scores : array of shape (n_samples,)
        Anomaly scores of the training images, for a threshold that uses no test image.
    """

    model: AnomalyDetector | MapDetector
    localizer: Localizer | None
    backbone: Backbone
    inputs: dict[str, Any]
    train_scores: Array

    def save(self, folder: Path) -> None:
        """Write the detector: `detector.json` and `detector.safetensors`.

        Parameters
        ----------
        folder : Path
            Created if it does not exist; a detector in it is replaced. After an interrupted save
            nothing in it loads.

        Raises
        ------
        TypeError
            If a model keeps what cannot be saved; the message says which attribute.
        """
        encoder = Encoder()
        state = {
            "format": _FORMAT,
            "backbone": asdict(self.backbone),
            "inputs": self.inputs,
            "train_scores": encoder.encode(self.train_scores, "train_scores"),
            "model": encoder.encode(self.model, "model"),
            "localizer": encoder.encode(self.localizer, "localizer"),
        }
        arrays = save(encoder.arrays)
        state["arrays_sha256"] = hashlib.sha256(arrays).hexdigest()
        state = json.loads(json.dumps(state))  # as it will be read: with keys that are all text
        text = json.dumps(state | {"checksum": _checksum(state)}, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        # The description goes first and comes last: without all of it there is no detector.
        (folder / _STATE).unlink(missing_ok=True)
        (folder / _ARRAYS).write_bytes(arrays)
        (folder / _STATE).write_bytes(text.encode())

    @classmethod
    def load(cls, folder: Path, *, trusted: Sequence[str] = ()) -> Self:
        """Read a detector that `save` wrote.

        Parameters
        ----------
        folder : Path
            Where it was saved.
        trusted : sequence of str
            What may be imported beside this project's own models and backbones, as named in
            `detector.json`: `("mymodule:Centroid", "mynet:build")`.

        Raises
        ------
        TrustError
            If it names code that is neither this project's own nor trusted; nothing of it is
            imported. The message names all such code.
        ValueError
            If there is no detector, one of another format, or one that its checksums show to be
            damaged; the message names the folder.
        """
        with _faults_in_one_line(folder):
            state = _read_state(folder)
            _check_names(state, trusted, folder=folder)
            decoder = Decoder(_read_arrays(folder, state["arrays_sha256"]))
            return cls(
                model=decoder.decode(state["model"], "model"),
                localizer=decoder.decode(state["localizer"], "localizer"),
                backbone=Backbone(**state["backbone"]),
                inputs=dict(state["inputs"]),
                train_scores=decoder.decode(state["train_scores"], "train_scores"),
            )


def names_to_trust(folder: Path) -> list[str]:
    """Return what `trusted` must hold for a saved detector to load."""
    with _faults_in_one_line(folder):
        return untrusted(_names(_read_state(folder)), ())


class Encoder:
    """Turns fitted estimators into JSON and arrays by their path.

    An estimator may keep, in attributes that end with an underscore, arrays, numbers, text and
    other estimators. One that is reached twice is written once.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._paths: dict[int, str] = {}

    def encode(self, value: Any, path: str) -> dict[str, Any]:
        """Describe an estimator, or what it keeps; what cannot be saved is a TypeError."""
        from sklearn.base import BaseEstimator

        if id(value) in self._paths:
            return {"same_as": self._paths[id(value)]}
        if isinstance(value, BaseEstimator):
            self._paths[id(value)] = path
            return self._estimator(value, path)
        if isinstance(value, np.ndarray) and value.dtype == object:
            return {"names": [str(name) for name in value]}
        if isinstance(value, np.ndarray):
            self.arrays[path] = np.ascontiguousarray(value)
            return {"array": path}
        return {"value": _plain(value, path)}

    def _estimator(self, estimator: BaseEstimator, path: str) -> dict[str, Any]:
        kind = type(estimator)
        if kind.__module__ == "__main__":
            raise TypeError(
                f"{path}: {kind.__name__} must be defined in a module to be found again"
            )
        params = estimator.get_params(deep=False)
        return {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "params": {name: _plain(value, f"{path}.{name}") for name, value in params.items()},
            "attributes": {
                name: self.encode(value, f"{path}.{name}")
                for name, value in sorted(vars(estimator).items())
                if _is_learnt(name)
            },
        }


class Decoder:
    """Rebuilds what an `Encoder` described, and imports the classes in it: check them before."""

    def __init__(self, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = arrays
        self._estimators: dict[str, BaseEstimator] = {}

    def decode(self, state: dict[str, Any], path: str) -> Any:
        """Rebuild the value at a path; what no `Encoder` would write is a ValueError."""
        if "class" in state:
            return self._estimator(state, path)
        if "same_as" in state:
            return self._estimators[state["same_as"]]
        if "array" in state:
            return self._arrays[state["array"]]
        return np.array(state["names"], dtype=object) if "names" in state else state["value"]

    def _estimator(self, state: dict[str, Any], path: str) -> BaseEstimator:
        kind = _class(state["class"])
        self._estimators[path] = estimator = kind(**state["params"])
        for name, value in state["attributes"].items():
            of_class = getattr(kind, name, None)
            if not _is_learnt(name) or callable(of_class) or isinstance(of_class, property):
                raise ValueError(
                    f"{path}.{name} must be an attribute that a fitted {kind.__name__} keeps: its"
                    " name ends with an underscore, begins with none, and is no method's"
                )
            setattr(estimator, name, self.decode(value, f"{path}.{name}"))
        return estimator


def _plain(value: Any, path: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, _PLAIN):
        raise TypeError(
            f"{path} cannot be saved: a model may keep arrays, numbers, text and estimators,"
            f" got {type(value).__name__}"
        )
    return value


def _class(name: str) -> type[BaseEstimator]:
    from sklearn.base import BaseEstimator

    try:
        found = resolve(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the saved model's class {name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseEstimator)):
        raise ValueError(f"the saved model's class {name} is no scikit-learn estimator")
    return found


def _is_learnt(name: str) -> bool:
    """Return whether an attribute is what an estimator has learnt, by scikit-learn's convention."""
    return name.endswith("_") and not name.startswith("_")


def _check_names(state: dict[str, Any], trusted: Sequence[str], *, folder: Path) -> None:
    check_trusted(_names(state), trusted, source=f"the detector in {str(folder)!r}")


def _names(state: dict[str, Any]) -> list[str]:
    """List what is imported to build a detector, or more."""
    estimators = [state[part] for part in ("model", "localizer", "train_scores")]
    return [*_classes(estimators), state["backbone"]["factory"]]


def _classes(state: Any) -> Iterator[str]:
    if isinstance(state, dict):
        if "class" in state:
            yield state["class"]
        state = list(state.values())
    if isinstance(state, list):
        for value in state:
            yield from _classes(value)


def _checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 over a description without its checksum, as canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file():
        raise ValueError(f"it has no {_STATE}")
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if state["format"] != _FORMAT:
        raise ValueError(f"{_STATE} must be of format {_FORMAT}, got {state['format']!r}")
    if state.pop("checksum") != _checksum(state):
        raise ValueError(f"{_STATE} must be as it was saved, and its checksum is of another text")
    return state


def _read_arrays(folder: Path, sha256: str) -> dict[str, np.ndarray[Any, Any]]:
    path = folder / _ARRAYS
    if not path.is_file():  # opening a pipe would wait for its other end
        raise ValueError(f"it has no {_ARRAYS}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{_ARRAYS} must be the one that was saved with {_STATE}, SHA-256 {sha256}, got {found}"
        )
    return load_file(path)


@contextmanager
def _faults_in_one_line(folder: Path) -> Iterator[None]:
    """Turn whatever is wrong with a saved detector into a ValueError that names its folder."""
    try:
        yield
    except TrustError:  # nothing is wrong with it
        raise
    except (*_FAULTS, SafetensorError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        raise ValueError(
            f"there is no detector in {str(folder)!r} that can be read: {kind}{reason}"
        ) from error
