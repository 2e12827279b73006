"""What runs the backbone: one module for each engine, imported when it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.features.extractor import Extractor
from harness.features.recipe import Recipe


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
        from harness.features.engines.pytorch import TorchEngine

        return TorchEngine(extractor, recipe)
    from harness.features.engines.translate import onnx_model

    model = onnx_model(extractor, recipe, cache=cache)
    if recipe.engine == "onnxruntime":
        from harness.features.engines.onnx_runtime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model)
    from harness.features.engines.open_vino import OpenVinoEngine

    return OpenVinoEngine(model, precision=recipe.precision, workers=workers)
