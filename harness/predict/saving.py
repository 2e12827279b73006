"""A fitted job into the artifacts of its run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.fitting import Fitted
from harness.predict.model import write_model
from harness.predict.prediction import QUANTILE
from harness.predict.training import trained

_CODE = Path(__file__).with_name("mlflow_model.py")


def saving(fitted: Fitted) -> Callable[[Path], None]:
    """Score the training images, and return what then writes the MLflow model into a folder.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    callable
        Takes the folder of a run's artifacts; writes there and nothing else.
    """
    return partial(write_model, save=trained(fitted).save, code=_CODE, quantile=QUANTILE)
