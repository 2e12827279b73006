"""DFKDE, deep feature kernel density estimation, apart from any benchmark.

A backbone gives features, a density model scores them, a localizer maps the score over the
image. Everything is imported on first use, so `import dfkde` costs nothing and torch is loaded
only by those names that need it (`FeatureExtractor`, `load_backbone`).
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
    "NonFiniteError",
    "TrainedDetector",
    "load_backbone",
    "localizer",
    "render",
]

_HOMES = {
    "DFKDE": "dfkde.density",
    "KNN": "dfkde.baselines",
    "AnomalyDetector": "dfkde.base",
    "Backbone": "dfkde.trained",
    "Constant": "dfkde.baselines",
    "DFKDEResidual": "dfkde.density",
    "FeatureExtractor": "dfkde.extractor",
    "Gaussian": "dfkde.baselines",
    "Localizer": "dfkde.localizers",
    "NonFiniteError": "dfkde.base",
    "TrainedDetector": "dfkde.trained",
    "load_backbone": "dfkde.backbones.loading",
    "localizer": "dfkde.localizers",
    "render": "dfkde.localizers",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dfkde' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
