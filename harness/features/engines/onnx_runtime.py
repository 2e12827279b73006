"""ONNX Runtime: what `auto` takes on a CPU for fp32, where it is installed."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


class OnnxRuntimeEngine:
    """Runs an ONNX model on the calling thread.

    Parameters
    ----------
    model : bytes
        The serialised model.
    """

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute a batch, as `Engine` says."""
        pooled, feature_maps = self._session.run(None, {self._input: images})
        return pooled, feature_maps
