"""A trained detector as a thing: saved to a folder, loaded anywhere to equal scores."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dfkde.backbones.download import WeightsError
from dfkde.backbones.presence import check_weights

if TYPE_CHECKING:
    from dfkde.base import AnomalyDetector, Array
    from dfkde.extractor import FeatureExtractor
    from dfkde.localizers import Localizer

_FORMAT = 1
_STATE, _ARRAYS = "detector.json", "detector.safetensors"


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
    """

    factory: str
    arguments: dict[str, Any]
    weights: str | None
    layers: list[str]
    mean: list[float]
    std: list[float]
    digest: str

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the backbone of a saved detector, without the libraries that its model needs.

        Raises
        ------
        ValueError
            As `TrainedDetector.load`.
        """
        with _told_in_one_line(folder):
            return cls(**_read_state(folder)["backbone"])

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
        """Build the feature extractor.

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
            module = load_backbone(self.factory, arguments=self.arguments, weights=self.weights)
        except WeightsError as error:
            raise error.without_others() from error
        extractor = FeatureExtractor(module, self.layers, mean=self.mean, std=self.std)
        if extractor.digest != self.digest:
            raise ValueError(
                f"the backbone {self.factory} must be the one of training, SHA-256 {self.digest},"
                f" got {extractor.digest}"
            )
        return extractor


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
        text = json.dumps(state, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        # The description goes first and comes last: without it there is no detector.
        (folder / _STATE).unlink(missing_ok=True)
        with _in_place_at_once(folder / _ARRAYS) as path:
            save_file(encoder.arrays, path)
        with _in_place_at_once(folder / _STATE) as path:
            path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a detector that `save` wrote.

        Parameters
        ----------
        folder : Path
            Where it was saved.

        Raises
        ------
        ValueError
            If there is no detector, one of another format, or a damaged one; the message names
            the folder.
        """
        with _told_in_one_line(folder):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Self:
        from dfkde.state import Decoder

        state = _read_state(folder)
        decoder = Decoder(load_file(folder / _ARRAYS))
        return cls(
            model=decoder.decode(state["model"], "model"),
            localizer=decoder.decode(state["localizer"], "localizer"),
            backbone=Backbone(**state["backbone"]),
            inputs=dict(state["inputs"]),
            train_scores=decoder.decode(state["train_scores"], "train_scores"),
        )


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file():
        raise ValueError(f"it has no {_STATE}")
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if state["format"] != _FORMAT:
        raise ValueError(f"{_STATE} must be of format {_FORMAT}, got {state['format']!r}")
    return state


@contextmanager
def _told_in_one_line(folder: Path) -> Iterator[None]:
    """Let whatever is wrong with a saved detector be a ValueError that names its folder."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OSError, SafetensorError) as error:
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
