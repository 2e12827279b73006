"""OpenVINO: as fast as ONNX Runtime in fp32, and bf16 on processors that compute in it."""

from __future__ import annotations

import threading

import numpy as np
import openvino as ov
from numpy.typing import NDArray

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """Runs an ONNX model with one stream for each calling thread.

    Parameters
    ----------
    model : bytes
        The serialised ONNX model.
    precision : {'fp32', 'bf16'}
        What the network computes in; its input and output are float32 in any case.
    workers : int
        Number of threads that will call the engine.

    Raises
    ------
    ValueError
        If the processor does not compute in bf16: OpenVINO would compute in fp32, silently.
    """

    def __init__(self, model: bytes, *, precision: str, workers: int) -> None:
        core = ov.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers,
            # Two processes that pin their threads would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
        _check_precision(self._compiled, precision)
        self._requests = threading.local()
        # The first inference of a process sets up what all later ones share, and deadlocks where
        # two threads make it at once; so make it here.
        self(np.zeros(self._compiled.input(0).shape, dtype=np.float32))

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute a batch, as `Engine` says."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        result = self._requests.own.infer([images])
        return result[0].copy(), result[1].copy()


def _check_precision(compiled: ov.CompiledModel, precision: str) -> None:
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != _PRECISIONS[precision]:
        raise ValueError(
            f"features.precision must be fp32 on this processor, where OpenVINO computes in {taken}"
            f" whatever it is told (features.engine=torch emulates bf16, slowly), got {precision!r}"
        )
