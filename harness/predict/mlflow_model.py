"""The code of a served model: MLflow copies this file beside the detector and runs it there.

So whoever loads it by MLflow trusts its folder, and the folder says, as `trusted` of its
`model_config`, which classes and factories beside this project's own the detector may name. The
caller's `model_config` takes precedence: `trusted`, `engine` and `device`, as `Predictor` takes
them.

The model takes a table with the column `image`, the bytes of an image file in each row, and returns
one with `score`, `percentile`, `threshold`, `verdict` and `error`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ImageScorer(PythonModel):
    """Scores images by a fitted job."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the detector."""
        from dfkde import TrainedDetector
        from harness.predict import Predictor

        settings = context.model_config or {}
        trusted = settings.get("trusted") or ()
        self.predictor = Predictor(
            TrainedDetector.load(Path(context.artifacts["detector"]), trusted=trusted),
            engine=settings.get("engine"),
            device=settings.get("device"),
        )

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score each row of a table; `quantile` of the training scores sets the threshold."""
        from harness.predict import QUANTILE

        threshold = self.predictor.threshold((params or {}).get("quantile", QUANTILE))
        with TemporaryDirectory() as folder:
            paths = [Path(folder, str(k)) for k in range(len(model_input))]
            for path, content in zip(paths, model_input["image"], strict=True):
                path.write_bytes(content)
            predictions = list(self.predictor.predict(paths))
        scores = [one.score for one in predictions]
        columns = {
            "score": scores,
            "percentile": [None if s is None else self.predictor.percentile(s) for s in scores],
            "threshold": [threshold] * len(scores),
            "verdict": [one.verdict(threshold) for one in predictions],
            "error": [one.error for one in predictions],
        }
        # As objects, for the missing score of a broken image would become NaN, which is no JSON.
        return pd.DataFrame(columns, dtype=object)


set_model(ImageScorer())
