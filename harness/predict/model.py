"""A trained detector as an MLflow model, written from its code: no pickle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from dfkde import Backbone, TrainedDetector
from dfkde.trained import names_to_trust
from harness.fitting import Fitted, folds, held_out_scores
from harness.predict.predictor import QUANTILE
from harness.provenance import commit, versions
from harness.system.threads import one_blas_thread
from harness.tracking.store import StoreError, artifacts_of, connect_to_read

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def trained(fitted: Fitted) -> TrainedDetector:
    """Take out of a fitted job what predicts, and hold out its training images.

    Parameters
    ----------
    fitted : Fitted
        A fitted job.

    Returns
    -------
    TrainedDetector
        Its `inputs` say how images are read, every `auto` resolved, and where it comes from.
    """
    settings, spec = fitted.job.backbone, fitted.reader.spec
    with one_blas_thread():
        train_scores = held_out_scores(fitted)
        map_values = _map_values(fitted)
    backbone = Backbone(
        factory=settings.factory,
        arguments=dict(settings.arguments),
        weights=settings.weights,
        layers=list(spec.layers),
        mean=list(spec.mean),
        std=list(spec.std),
        digest=spec.weights_digest,
        seed=fitted.job.seed if settings.random else None,
    )
    inputs = _inputs(fitted) | {"map_values": map_values}
    return TrainedDetector(fitted.model, fitted.localizer, backbone, inputs, train_scores)


def _inputs(fitted: Fitted) -> dict[str, Any]:
    job, spec = fitted.job, fitted.reader.spec
    return {
        "image_size": spec.image_size,
        "center_crop": spec.center_crop,
        "resize": spec.resize,
        "engine": spec.engine,
        "precision": spec.precision,
        "device": spec.device,
        "versions": list(spec.versions),
        "network_digest": spec.network_digest,
        "shape": list(spec.shape),
        "job": str(job),
        "data_fingerprint": fitted.split.fingerprint,
        "commit": commit().sha,
        "libraries": versions(),
    }


def _map_values(fitted: Fitted) -> list[float] | None:
    """Return median and maximum over the anomaly maps of a fold that was held out."""
    rest, held_out = next(folds(fitted))
    locate = rest.localizer
    if locate is None:
        return None
    samples = [fitted.split.train[k] for k in held_out]
    maps = [locate.anomaly_map(one) for one in fitted.reader.maps(samples)]
    return [float(np.median(maps)), float(np.max(maps))]


MODEL_FILE = "MLmodel"
"""What tells an MLflow model's folder from others."""
MODEL = "model"
"""Where a run keeps its model among its artifacts."""
DETECTOR = "detector"
"""What the model calls the trained detector among its own."""


def write_model(folder: Path, save: Callable[[Path], None], *, code: Path, quantile: float) -> None:
    """Write a model that `mlflow.pyfunc.load_model` reads.

    MLflow runs the code in a model's folder whatever it is, so the folder also says which names
    the detector in it needs trusted; `harness.predict` does not heed that.

    Parameters
    ----------
    folder : Path
        Where it goes, as a folder `model`.
    save : callable
        Writes the trained detector to the folder it is given.
    code : Path
        The Python file that makes a model of it.
    quantile : float
        Default of the parameter `quantile`.
    """
    with TemporaryDirectory() as place, warnings.catch_warnings():
        # MLflow warns of its own type hints, and asks for an example of the input, which would
        # be somebody's image.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        from mlflow.pyfunc import save_model

        detector = Path(place, DETECTOR)
        save(detector)
        save_model(
            str(folder / MODEL),
            python_model=str(code),
            artifacts={DETECTOR: str(detector)},
            # A caller can set no other keys than these when the model is loaded.
            model_config={"trusted": names_to_trust(detector), "engine": None, "device": None},
            signature=_signature(quantile),
            pip_requirements=_requirements(),
        )


def _signature(quantile: float) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    score, threshold = ColSpec("double", "score", required=False), ColSpec("double", "threshold")
    text = [ColSpec("string", name, required=False) for name in ("verdict", "error")]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([score, threshold, *text]),
        params=ParamSchema([ParamSpec("quantile", "double", quantile)]),
    )


def fetch_model(run_id: str, uri: str, *, folder: Path) -> Path:
    """Fetch the trained detector of a run.

    Parameters
    ----------
    run_id : str
        MLflow's id of the run.
    uri : str
        The tracking URI.
    folder : Path
        Where to put it.

    Returns
    -------
    Path
        Where it is.

    Raises
    ------
    ValueError
        If there is no such run, or it has no model.
    """
    from mlflow.exceptions import MlflowException

    try:
        artifacts = artifacts_of(uri, connect_to_read(uri).get_run(run_id).info)
    except (MlflowException, StoreError) as error:
        raise ValueError(
            f"model: {run_id!r} is neither a folder nor a run in {uri}: {error}"
        ) from error
    if not artifacts.list_artifacts(MODEL):
        raise ValueError(
            f"model: run {run_id} kept none; run its job with save_model=true force=true"
        )
    return detector_of(Path(artifacts.download_artifacts(MODEL, str(folder))))


def detector_of(model: Path) -> Path:
    """Return where an MLflow model's folder holds the trained detector."""
    return model / "artifacts" / DETECTOR


def _requirements() -> list[str]:
    """Return the libraries that the scores depend on, of the versions here."""
    return [f"{name}=={value}" for name, value in versions().items() if name != "python"]


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
