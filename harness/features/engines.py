"""What runs the backbone: one module for each engine, imported when it is chosen."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.features.extractor import Extractor
from harness.features.feature_cache import Store
from harness.features.spec import Recipe, graph_of

_NAME = "model.onnx"

log = logging.getLogger(__name__)


def onnx_model(extractor: Extractor, recipe: Recipe, *, cache: Path) -> bytes:
    """Return the serialised model; with it in the cache, no torch is imported."""
    store = Store(cache, graph_of(recipe))
    with store.claim(_NAME, wait=True):
        kept = store.read_bytes(_NAME)
        if kept is not None:
            return bytes(kept)
        model = _translate(extractor, recipe)
        store.write_bytes(_NAME, model)
        return model


def _translate(extractor: Extractor, recipe: Recipe) -> bytes:
    import torch

    log.info("translating the backbone to ONNX")
    with _no_collection():
        program = torch.onnx.export(extractor.program(recipe.shape), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: bytes = program.model_proto.SerializeToString()
    return model


@contextmanager
def _no_collection() -> Iterator[None]:
    """Make many objects that stay: the search for garbage among them takes a seventh longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class OnnxRuntimeEngine:
    """Runs an ONNX model on the calling thread.

    Parameters
    ----------
    model : bytes
        The serialised model.
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

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

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute a batch, as `Engine` says."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        result = self._requests.own.infer([images])
        return result[0].copy(), result[1].copy()


def _check_precision(core: Any, precision: str) -> None:
    # Not by the compiled model's hint, which may repeat what was asked for.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError(
            "features.precision must be fp32 on this processor, which does not compute in bf16"
            " (features.engine=torch emulates it, slowly), got 'bf16'"
        )


class Engine(Protocol):
    """Computes the features of one batch; safe to call from several threads at once.

    Each call computes on one thread (the calling one; in OpenVINO one of a pool; or on the GPU), so
    that the result does not depend on the number of threads, and always on the recipe's number of
    images, so that it does not depend on which images were computed together.
    """

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Compute a batch.

        Parameters
        ----------
        images : ndarray of shape (batch, 3, H, W), float32
            RGB in [0, 1].

        Returns
        -------
        pooled : ndarray of shape (batch, D), float32
        feature_maps : ndarray of shape (batch, D, h, w), float32
        """


def build_engine(extractor: Extractor, recipe: Recipe, *, cache: Path, workers: int) -> Engine:
    """Build the engine that a recipe names.

    Parameters
    ----------
    extractor : Extractor
        The backbone, built only if the engine needs the torch module.
    recipe : Recipe
        The engine, precision, device, image size and batch.
    cache : Path
        The folder where a translated model is kept.
    workers : int
        Number of threads that will call the engine.
    """
    if recipe.engine == "torch":
        from harness.features.torch_engine import TorchEngine

        return TorchEngine(extractor, recipe)

    model = onnx_model(extractor, recipe, cache=cache)
    if recipe.engine == "onnxruntime":
        return OnnxRuntimeEngine(model)

    return OpenVinoEngine(model, precision=recipe.precision, workers=workers)
