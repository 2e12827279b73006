"""A fitted job at work on any image: kept in a folder, served by MLflow, or on the command line.

`python -m harness.predict model=RUN images=FOLDER` scores a folder of images.
"""

from harness.predict.predictor import QUANTILE, Prediction, Predictor
from harness.predict.training import trained

__all__ = ["QUANTILE", "Prediction", "Predictor", "trained"]
