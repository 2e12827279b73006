"""What runs the backbone: one class for each engine, whose library is imported when it is built."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import Store
from harness.features.spec import ExtractionSpec, graph_spec

_NAME = "model.onnx"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Computes the features of one batch; safe to call from several threads at once.

    Each call computes on one thread (the calling one; in OpenVINO one of a pool; or on the GPU), so
    that the result does not depend on the number of threads, and always on the same number of
    images, so that it does not depend on which images were computed together.
    """

    def __call__(self, images: NDArray[np.float32]) -> Sequence[NDArray]:
        """Compute pooled (batch, D) and maps (batch, D, h, w) of RGB in [0, 1], (batch, 3, H, W).

        The maps of further layers follow, if the extractor returns any. All are float32.
        """


def build_engine(
    extractor: LazyExtractor, spec: ExtractionSpec, *, cache: Path, workers: int
) -> Engine:
    """Build the engine that a spec names, for calls from so many threads.

    The spec's network is that of the extractor, with the maps of all layers that it returns.
    """
    if spec.engine == "torch":
        from harness.features.torch_engine import TorchEngine

        return TorchEngine(extractor, spec)

    model = onnx_model(extractor, spec, cache=cache)
    if spec.engine == "onnxruntime":
        return OnnxRuntimeEngine(model)

    return OpenVinoEngine(model, precision=spec.precision, workers=workers)


def onnx_model(extractor: LazyExtractor, spec: ExtractionSpec, *, cache: Path) -> bytes:
    """Return the serialised model; with it in the cache, no torch is imported."""
    store = Store(cache, graph_spec(spec))
    with store.lock(_NAME, wait=True):
        cached = store.read_bytes(_NAME)
        if cached is not None:
            return bytes(cached)
        model = _translate(extractor, spec)
        store.write_bytes(_NAME, model)
        return model


def _translate(extractor: LazyExtractor, spec: ExtractionSpec) -> bytes:
    import torch

    log.info("translating the backbone to ONNX")
    enabled = gc.isenabled()
    gc.disable()  # many objects are made that stay: the search among them takes a seventh longer
    try:
        program = torch.onnx.export(extractor.program(spec.shape), dynamo=True, verbose=False)
    finally:
        if enabled:
            gc.enable()
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: bytes = program.model_proto.SerializeToString()
    return model


class OnnxRuntimeEngine:
    """Runs a serialised ONNX model on the calling thread."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.float32]) -> Sequence[NDArray]:
        """Compute a batch, as `Engine` says."""
        found: Sequence[NDArray] = self._session.run(None, {self._input: images})
        return found


class OpenVinoEngine:
    """Runs a serialised ONNX model with one stream for each of the threads that will call it.

    A processor that does not compute in bf16 is refused: OpenVINO would compute in fp32, silently.
    """

    def __init__(self, model: bytes, *, precision: str, workers: int) -> None:
        import openvino as ov

        core = ov.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers,
            # Two processes that pin their threads would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        _check_precision(core, precision)
        self._compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
        self._requests = threading.local()
        # The first inference of a process sets up what all later ones share, and deadlocks where
        # two threads make it at once; so make it here.
        self(np.zeros(self._compiled.input(0).shape, dtype=np.float32))

    def __call__(self, images: NDArray[np.float32]) -> Sequence[NDArray]:
        """Compute a batch, as `Engine` says."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        result = self._requests.own.infer([images])
        return [result[k].copy() for k in range(len(self._compiled.outputs))]


def _check_precision(core: Any, precision: str) -> None:
    # Not by the compiled model's hint, which may repeat what was asked for.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError(
            "features.precision must be fp32 on this processor, which does not compute in bf16"
            " (features.engine=torch emulates it, slowly), got 'bf16'"
        )
