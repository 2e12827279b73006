"""A fitted job at work on any image: kept in a folder, served by MLflow, or on the command line.

`python -m harness.predict model=RUN images=FOLDER` scores a folder of images. Everything is
imported on first use, so that the command tells mistakes before it imports what computes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.predict.prediction import QUANTILE, Prediction
    from harness.predict.predictor import Predictor
    from harness.predict.training import trained

__all__ = ["QUANTILE", "Prediction", "Predictor", "trained"]

_HOMES = {
    "QUANTILE": "harness.predict.prediction",
    "Prediction": "harness.predict.prediction",
    "Predictor": "harness.predict.predictor",
    "trained": "harness.predict.training",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'harness.predict' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
