"""The backbone as an ONNX model, translated once for every engine and precision, and kept."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.features.extractor import Extractor
from harness.features.recipe import Recipe, graph_of
from harness.features.store import Store

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
