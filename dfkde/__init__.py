"""DFKDE, deep feature kernel density estimation, independent of any benchmark.

A backbone gives features, a density model scores them, a localizer maps the score over the
image. Names are imported on first use, so that torch is loaded by those alone that need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfkde.backbones.loading import load_backbone
    from dfkde.base import AnomalyDetector, NonFiniteError
    from dfkde.baselines import KNN, Constant, Gaussian
    from dfkde.density import DFKDE, DFKDEResidual
    from dfkde.extractor import FeatureExtractor
    from dfkde.localizers import Localizer, localizer, render
    from dfkde.maps import MapDetector
    from dfkde.padim import PaDiM
    from dfkde.patch_kde import PatchKDE
    from dfkde.patchcore import PatchCore
    from dfkde.trained import Backbone, TrainedDetector

__all__ = [
    "DFKDE",
    "KNN",
    "AnomalyDetector",
    "Backbone",
    "Constant",
    "DFKDEResidual",
    "FeatureExtractor",
    "Gaussian",
    "Localizer",
    "MapDetector",
    "NonFiniteError",
    "PaDiM",
    "PatchCore",
    "PatchKDE",
    "TrainedDetector",
    "load_backbone",
    "localizer",
    "render",
]

_MODULES = {
    "dfkde.backbones.loading": ["load_backbone"],
    "dfkde.base": ["AnomalyDetector", "NonFiniteError"],
    "dfkde.baselines": ["KNN", "Constant", "Gaussian"],
    "dfkde.density": ["DFKDE", "DFKDEResidual"],
    "dfkde.extractor": ["FeatureExtractor"],
    "dfkde.localizers": ["Localizer", "localizer", "render"],
    "dfkde.maps": ["MapDetector"],
    "dfkde.padim": ["PaDiM"],
    "dfkde.patch_kde": ["PatchKDE"],
    "dfkde.patchcore": ["PatchCore"],
    "dfkde.trained": ["Backbone", "TrainedDetector"],
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'dfkde' has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
