"""The identity of a job: a digest of what determines its numbers, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from harness.config import Job
from harness.features import Recipe
from harness.models import build_model, without_seed
from harness.record import SCHEMA_VERSION


def settings(job: Job, recipe: Recipe) -> dict[str, str]:
    """Return the values that determine a job's numbers beside data, weights and seed.

    Parameters
    ----------
    job : Job
        The job.
    recipe : Recipe
        How its features are made, every `auto` resolved.

    Returns
    -------
    dict of str to str
        Flat and sorted; every parameter of the model stands there, defaults included.
    """
    return {name: str(value) for name, value in sorted(_values(job, recipe).items())}


def _values(job: Job, recipe: Recipe) -> dict[str, object]:
    # What a function takes that builds the model need not be a parameter of the model.
    params = job.model.params | build_model(job.model).get_params()
    return (
        job.protocol()
        | {
            "features.device": recipe.device,
            "features.engine": recipe.engine,
            "features.precision": recipe.precision,
            "features.resize": recipe.resize,
            "backbone.layers": ",".join(recipe.layers),
            "backbone.mean": _numbers(recipe.mean),
            "backbone.std": _numbers(recipe.std),
        }
        | {f"model.{name}": value for name, value in without_seed(params, job.seed).items()}
    )


def identity(job: Job, recipe: Recipe, *, fingerprint: str) -> str:
    """Return the job's identity.

    Parameters
    ----------
    job : Job
        The job.
    recipe : Recipe
        How its features are made.
    fingerprint : str
        Digest of the category's files.

    Returns
    -------
    str
        64 hexadecimal digits. No path, no tracking store, no library version and no launcher
        enters.
    """
    parts = {
        "schema": SCHEMA_VERSION,
        "dataset": job.dataset.name,
        "category": job.category,
        "fingerprint": fingerprint,
        "weights": recipe.weights_digest,
        "network": recipe.network_digest,
        "model": job.model.factory,
        "seed": job.seed,
        "settings": _values(job, recipe),
    }
    # As JSON, for null and the text `None` are two values.
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(values: Iterable[float]) -> str:
    # As float32, which they are computed with: 0.485, not 0.48500001430511475.
    return ",".join(str(np.float32(value)) for value in values)
