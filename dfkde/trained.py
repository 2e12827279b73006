"""A trained detector as a thing: saved to a folder, loaded anywhere to equal scores.

A saved detector is data: loading it imports this project's own models and backbones and, of what
else the files name, only what the caller trusts. The checksums in it are against slips, such as a
broken copy or files of two detectors mixed up; whoever changes a detector on purpose can make new
ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dfkde.backbones.presence import WeightsError, check_weights
from dfkde.state import TrustError, check_trusted, untrusted

if TYPE_CHECKING:
    from dfkde.base import AnomalyDetector, Array
    from dfkde.extractor import FeatureExtractor
    from dfkde.localizers import Localizer

_FORMAT = 2
_WITHOUT_CHECKSUM = 1
"""The format before, which is still read."""
_STATE, _ARRAYS = "detector.json", "detector.safetensors"
_FAULTS = (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError)
"""What a file that is no detector, or a damaged one, may raise while it is read."""


@dataclass(frozen=True)
class Backbone:
    """Which network gives the features: enough to build it again and to know that it is it.

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
    """

    factory: str
    arguments: dict[str, Any]
    weights: str | None
    layers: list[str]
    mean: list[float]
    std: list[float]
    digest: str
    seed: int | None = None

    @classmethod
    def load(cls, folder: Path, *, trusted: Sequence[str] = ()) -> Self:
        """Read the backbone of a saved detector, without its arrays and what its model needs.

        Parameters
        ----------
        folder : Path
            Where the detector was saved.
        trusted : sequence of str
            As `TrainedDetector.load`; the backbone's factory alone has to be trusted.

        Raises
        ------
        TrustError, ValueError
            As `TrainedDetector.load`; a damaged `detector.safetensors` is not seen.
        """
        with _told_in_one_line(folder):
            state = _read_state(folder)
            backbone = cls(**state["backbone"])
            if untrusted([backbone.factory], trusted):  # told with whatever else needs trust
                _check_names(state, trusted, folder=folder)
            return backbone

    def check(self) -> None:
        """Refuse weights that this machine has not and cannot get, without importing torch.

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
            As `check`.
        """
        self.check()
        from dfkde import FeatureExtractor, load_backbone

        try:
            module = load_backbone(
                self.factory, arguments=self.arguments, weights=self.weights, seed=self.seed
            )
        except WeightsError as error:
            raise error.without_others() from error
        extractor = FeatureExtractor(module, self.layers, mean=self.mean, std=self.std)
        self.check_digest(extractor.digest)
        return extractor

    def check_digest(self, digest: str) -> None:
        """Refuse a network whose `FeatureExtractor.digest` is another than in training.

        Raises
        ------
        ValueError
            Then.
        """
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
    model : AnomalyDetector
        Fitted on pooled features.
    localizer : Localizer, optional
        Fitted with that model; None for no anomaly maps.
    backbone : Backbone
        Where features come from.
    inputs : dict
        How images are read, as the caller needs it: plain values by name.
    train_scores : array of shape (n_samples,)
        Anomaly scores of the training images, for a threshold that saw no test image.
    """

    model: AnomalyDetector
    localizer: Localizer | None
    backbone: Backbone
    inputs: dict[str, Any]
    train_scores: Array

    def save(self, folder: Path) -> None:
        """Write the detector: `detector.json` and `detector.safetensors`.

        Parameters
        ----------
        folder : Path
            Made if it is not there; a detector in it is replaced. A save that is broken off
            leaves no detector that looks whole.

        Raises
        ------
        TypeError
            If a model keeps what cannot be saved; the message says which attribute.
        """
        from dfkde.state import Encoder

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
        text = _sealed(state | {"arrays_sha256": hashlib.sha256(arrays).hexdigest()})
        folder.mkdir(parents=True, exist_ok=True)
        # The description goes first and comes last: without it there is no detector.
        (folder / _STATE).unlink(missing_ok=True)
        with _in_place_at_once(folder / _ARRAYS) as path:
            path.write_bytes(arrays)
        with _in_place_at_once(folder / _STATE) as path:
            path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, trusted: Sequence[str] = ()) -> Self:
        """Read a detector that `save` wrote.

        Parameters
        ----------
        folder : Path
            Where it was saved.
        trusted : sequence of str
            What may be imported beside this project's own models and backbones, in the words of
            `detector.json`: `("mymodule:Centroid", "mynet:build")`.

        Raises
        ------
        TrustError
            If it names code that is neither this project's own nor trusted; nothing of it is
            imported. The message names all such code.
        ValueError
            If there is no detector, one of another format, or a damaged one, whose checksums
            tell; the message names the folder.
        """
        with _told_in_one_line(folder):
            return cls._load(folder, trusted)

    @classmethod
    def _load(cls, folder: Path, trusted: Sequence[str]) -> Self:
        state = _read_state(folder)
        _check_names(state, trusted, folder=folder)
        if not (folder / _ARRAYS).is_file():  # of a pipe one would wait for the end
            raise ValueError(f"it has no {_ARRAYS}")
        if state["format"] != _WITHOUT_CHECKSUM:
            _check_arrays(folder / _ARRAYS, state["arrays_sha256"])
        from dfkde.state import Decoder

        decoder = Decoder(load_file(folder / _ARRAYS), trusted)
        return cls(
            model=decoder.decode(state["model"], "model"),
            localizer=decoder.decode(state["localizer"], "localizer"),
            backbone=Backbone(**state["backbone"]),
            inputs=dict(state["inputs"]),
            train_scores=decoder.decode(state["train_scores"], "train_scores"),
        )


def names_to_trust(folder: Path) -> list[str]:
    """Return what `trusted` must hold for a saved detector to load.

    Parameters
    ----------
    folder : Path
        Where the detector was saved.

    Raises
    ------
    ValueError
        As `TrainedDetector.load`.
    """
    with _told_in_one_line(folder):
        return untrusted(_names(_read_state(folder)), ())


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


def _sealed(state: dict[str, Any]) -> str:
    """Return the text of a description with its checksum."""
    content = json.loads(json.dumps(state))  # as it will be read: with keys that are all text
    return _text(content | {"checksum": _checksum(content)})


def _text(state: dict[str, Any]) -> str:
    return json.dumps(state, indent=2) + "\n"


def _checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 over a description without its checksum, as canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file():
        raise ValueError(f"it has no {_STATE}")
    text = (folder / _STATE).read_text(encoding="utf-8")
    state: dict[str, Any] = json.loads(text)
    if state["format"] == _FORMAT:
        _check_state(state, text)
    elif state["format"] != _WITHOUT_CHECKSUM or "checksum" in state:
        raise ValueError(
            f"{_STATE} must be of format {_WITHOUT_CHECKSUM} or {_FORMAT}, got {state['format']!r}"
        )
    return state


def _check_state(state: dict[str, Any], text: str) -> None:
    content = {name: value for name, value in state.items() if name != "checksum"}
    # The text as well, for one value can be written in several ways: 1e-5 and 1E-5.
    if state["checksum"] != _checksum(content) or text != _text(state):
        raise ValueError(f"{_STATE} must be as it was saved, and its checksum is of another text")


def _check_arrays(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{_ARRAYS} must be the one that was saved with {_STATE}, SHA-256 {expected},"
            f" got {found}"
        )


@contextmanager
def _told_in_one_line(folder: Path) -> Iterator[None]:
    """Let whatever is wrong with a saved detector be a ValueError that names its folder."""
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


@contextmanager
def _in_place_at_once(path: Path) -> Iterator[Path]:
    """Give a name to write to, and rename it to the wanted one once it is written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
