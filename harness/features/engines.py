"""What runs the backbone: a function for each engine, which imports its library."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.features.extractor import LazyExtractor
from harness.features.feature_cache import Store
from harness.features.spec import ExtractionSpec

_NAME = "model.onnx"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}

log = logging.getLogger(__name__)


Engine = Callable[[NDArray[np.float32]], Sequence[NDArray]]
"""Computes the features of one batch, and may be called from several threads at once.

It takes RGB in [0, 1], (batch, 3, H, W), and returns pooled features (batch, D), maps
(batch, D, h, w), and the maps of further layers, if the extractor returns any; all are float32.

Each call computes on one thread (the calling one; in OpenVINO one of a pool; or on the GPU), so
that the result does not depend on the number of threads, and always on the same number of images,
so that it does not depend on which images were computed together.
"""


def build_engine(
    extractor: LazyExtractor, spec: ExtractionSpec, *, cache: Path, workers: int
) -> Engine:
    """Build the engine that a spec names, for calls from so many threads.

    The spec's network is that of the extractor, with the maps of all layers that it returns.
    """
    if spec.engine == "torch":
        from harness.features.torch_engine import torch_engine

        return torch_engine(extractor, spec)

    model = onnx_model(extractor, spec, cache=cache)
    if spec.engine == "onnxruntime":
        return onnxruntime_engine(model)

    return openvino_engine(model, precision=spec.precision, workers=workers)


def onnx_model(extractor: LazyExtractor, spec: ExtractionSpec, *, cache: Path) -> bytes:
    """Return the serialised model; with it in the cache, no torch is imported."""
    store = Store(cache, spec)
    with store.lock(_NAME, wait=True):
        cached = store.read_bytes(_NAME)
        if cached is not None:
            return bytes(cached)
        import torch

        log.info("translating the backbone to ONNX")
        program = torch.onnx.export(extractor.program(spec.shape), dynamo=True, verbose=False)
        model: bytes = program.model_proto.SerializeToString()  # type: ignore[union-attr]
        store.write_bytes(_NAME, model)
        return model


def onnxruntime_engine(model: bytes) -> Engine:
    """Run a serialised ONNX model on the calling thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda images: session.run(None, {given.name: images})


def openvino_engine(model: bytes, *, precision: str, workers: int) -> Engine:
    """Run a serialised ONNX model with one stream for each of the threads that will call it.

    A processor that does not compute in bf16 is refused: OpenVINO would compute in fp32, silently.
    """
    import openvino as ov

    core = ov.Core()
    # Not by the compiled model's hint, which may repeat what was asked for.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError(
            "features.precision must be fp32 on this processor, which does not compute in bf16"
            " (features.engine=torch emulates it, slowly), got 'bf16'"
        )
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
        "NUM_STREAMS": workers,
        "INFERENCE_NUM_THREADS": workers,
        # Two processes that pin their threads would share the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
    requests = threading.local()

    def compute(images: NDArray[np.float32]) -> Sequence[NDArray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        result = requests.own.infer([images])
        return [result[k].copy() for k in range(len(compiled.outputs))]

    # The first inference of a process sets up what all later ones share, and deadlocks where two
    # threads make it at once; so make it here.
    compute(np.zeros(compiled.input(0).shape, dtype=np.float32))
    return compute
