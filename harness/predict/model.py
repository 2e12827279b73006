"""A trained detector as an MLflow model, written from its code: no pickle."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dfkde.trained import names_to_trust
from harness.predict import QUANTILE
from harness.provenance import versions
from harness.system.secrets import server_address
from harness.tracking.store import StoreError, artifacts_of, connect_to_read, errors_of, store_uri

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from dfkde import TrainedDetector
    from harness.fitting import Fitted

MODEL_FILE = "MLmodel"
"""The file by which an MLflow model's folder is recognised."""
MODEL = "model"
"""Where a run keeps its model among its artifacts."""
DETECTOR = "detector"
"""Where the model keeps the trained detector among its own."""

_CODE = Path(__file__).with_name("mlflow_model.py")


def saving(fitted: Fitted) -> Callable[[Path], None]:
    """Score the training images, and return what then writes the model into a run's artifacts."""
    from harness.predict.predictor import trained

    detector = trained(fitted)
    return lambda folder: _write_model(folder, detector)


def fetch_model(model: str, uri: str, *, folder: Path) -> Path:
    """Download the trained detector of a run into a folder; a ValueError if the run has none.

    `model` is the run's id, or an address of MLflow's as `runs:/ID/model`.
    """
    from mlflow.exceptions import MlflowException

    run_id, _, path = model.removeprefix("runs:/").partition("/")
    try:
        artifacts = artifacts_of(uri, connect_to_read(uri).get_run(run_id).info)
    except (MlflowException, StoreError) as error:
        raise ValueError(
            f"model: {model!r} is neither a folder nor a run in {uri}: {error}"
        ) from error
    path = path.strip("/") or MODEL
    if not artifacts.list_artifacts(path):
        kept = "none" if path == MODEL else f"no {path!r}"
        raise ValueError(
            f"model: run {run_id} kept {kept}; run its job with save_model=true force=true"
        )
    return detector_of(Path(artifacts.download_artifacts(path, str(folder))))


def predict_settings(run_id: str, uri: str) -> str:
    """Return the settings by which `harness.predict` finds the model of a run; empty without one.

    The address of the store is left out where it is the one that the command takes by default.
    """
    with errors_of(uri):
        artifacts = artifacts_of(uri, connect_to_read(uri).get_run(run_id).info)
        if not artifacts.list_artifacts(MODEL):
            return ""
    usual = store_uri(server_address(store_uri()))
    where = "" if uri == usual else f" tracking.uri={shlex.quote(uri)}"
    return f"model={run_id}{where}"


def detector_of(model: Path) -> Path:
    """Return where an MLflow model's folder holds the trained detector."""
    return model / "artifacts" / DETECTOR


def _write_model(folder: Path, detector: TrainedDetector) -> None:
    """Write the folder `model`, which `mlflow.pyfunc.load_model` reads.

    MLflow runs the code in a model's folder whatever it is, so the folder also says which names
    the detector in it needs trusted; `harness.predict` does not read that.
    """
    with TemporaryDirectory() as place, warnings.catch_warnings():
        # MLflow warns of its own type hints, and asks for an example of the input, which would
        # be somebody's image.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        from mlflow.pyfunc import save_model

        saved = Path(place, DETECTOR)
        detector.save(saved)
        save_model(
            str(folder / MODEL),
            python_model=str(_CODE),
            artifacts={DETECTOR: str(saved)},
            # A caller can set no other keys than these when the model is loaded.
            model_config={"trusted": names_to_trust(saved), "engine": None, "device": None},
            signature=_signature(),
            # The libraries that the scores depend on, of the versions here.
            pip_requirements=[f"{k}=={v}" for k, v in versions().items() if k != "python"],
        )


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    numbers = [ColSpec("double", name, required=False) for name in ("score", "percentile")]
    threshold = ColSpec("double", "threshold")
    text = [ColSpec("string", name, required=False) for name in ("verdict", "error")]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([*numbers, threshold, *text]),
        params=ParamSchema([ParamSpec("quantile", "double", QUANTILE)]),
    )
