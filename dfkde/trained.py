"""A trained detector as a thing: saved to a folder, loaded anywhere to equal scores."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors.numpy import load_file, save_file

from dfkde.base import AnomalyDetector, Array
from dfkde.localizers import Localizer
from dfkde.state import Decoder, Encoder

if TYPE_CHECKING:
    from dfkde.extractor import FeatureExtractor

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

    def extractor(self) -> FeatureExtractor:
        """Build the feature extractor.

        Raises
        ------
        ValueError
            If the network cannot be built, or its digest is another than in training.
        """
        from dfkde import FeatureExtractor, load_backbone

        module = load_backbone(self.factory, arguments=self.arguments, weights=self.weights)
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
            Made if it is not there; a detector in it is replaced.

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
        folder.mkdir(parents=True, exist_ok=True)
        save_file(encoder.arrays, folder / _ARRAYS)
        (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

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
            If there is no detector, or one of another format.
        """
        if not (folder / _STATE).is_file():
            raise ValueError(f"there is no detector in {str(folder)!r}: it has no {_STATE}")
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            raise ValueError(f"{_STATE} must be of format {_FORMAT}, got {state['format']!r}")
        decoder = Decoder(load_file(folder / _ARRAYS))
        return cls(
            model=decoder.decode(state["model"], "model"),
            localizer=decoder.decode(state["localizer"], "localizer"),
            backbone=Backbone(**state["backbone"]),
            inputs=state["inputs"],
            train_scores=decoder.decode(state["train_scores"], "train_scores"),
        )
