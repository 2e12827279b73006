"""Models on the maps of layers: seconds and memory of fit and scoring, against the extraction.

Run: `python -m benchmarks.map_models [--images FOLDER] [--device cuda]`. Each model has a process
of its own, which extracts the maps, fits the model on the first images and scores the others, so
that the ratios are of one process. Scoring takes the threads of a job: one for each core. Beside the
seconds that pass stand those of the processor, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import machine, samples_in, status_bytes, table, write_pictures
from harness.config import BackboneConfig, DatasetConfig, FeaturesConfig, Job, ModelConfig, conf_dir
from harness.fitting import build_model, features_of, reader_of, score
from harness.system.threads import one_blas_thread

MODELS = ("patch_kde", "padim", "patchcore")
STAGES = ("extraction", "fit", "scoring")


def main() -> None:
    """Print the table."""
    options = parsed()
    print(f"{machine()}; device {options.device}; {options.backbone}\n")
    with tempfile.TemporaryDirectory() as folder:
        if options.images is None:
            options.images = Path(folder) / "images"
            write_pictures(options.images, options.n)
        print("Seconds, in brackets of the processor; fit and scoring as a ratio to extraction.\n")
        columns = ["model", *STAGES, "ratio", "peak GB"]
        table(columns, (_line(options, name) for name in options.models))


def parsed(arguments: Sequence[str] | None = None) -> Any:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images; else synthetic 900x900 PNG")
    parser.add_argument("--n", type=int, default=292, help="number of images")
    parser.add_argument("--n-train", type=int, default=209, help="how many of them train")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--coreset-ratio", type=float, help="of PatchCore, in place of the default")
    return parser.parse_args(arguments)


def _line(options: Any, name: str) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        stages, peak = pool.submit(measure, options, name).result()
    seconds = [f"{passed:.1f} ({processor:.1f})" for passed, processor in stages]
    extraction, fit, scoring = stages
    ratios = [(fit[k] + scoring[k]) / extraction[k] for k in (0, 1)]
    return (name, *seconds, f"{ratios[0]:.2f} ({ratios[1]:.2f})", f"{peak / 1e9:.2f}")


def measure(options: Any, name: str) -> tuple[list[tuple[float, float]], float]:
    """Return the seconds and processor seconds of each stage of a model, and the peak in bytes."""
    job = job_of(options, name)
    samples = samples_in(options.images)[: options.n]
    train, test = samples[: options.n_train], samples[options.n_train :]
    with tempfile.TemporaryDirectory() as cache, one_blas_thread():
        job.features.cache = cache
        reader = reader_of(job)
        reader.prepare()
        model = build_model(job.model)
        stages = [
            _timed(lambda: features_of(job, reader, samples, maps=False)),
            _timed(lambda: model.fit(features_of(job, reader, train, maps=False))),
            _timed(lambda: score(model, features_of(job, reader, test, maps=False))),
        ]
    return stages, status_bytes("VmHWM")


def job_of(options: Any, name: str) -> Job:
    """Return a job of the model as `conf/` has it, on no dataset."""
    model = ModelConfig(**_read("model", name))
    if "random_state" in model.params:
        model.params["random_state"] = 42
    if name == "patchcore" and options.coreset_ratio is not None:
        model.params["coreset_ratio"] = options.coreset_ratio
    return Job(
        dataset=DatasetConfig(name="none", title="none", reader="folder", categories=["all"]),
        category="all",
        backbone=BackboneConfig(**_read("backbone", options.backbone)),
        model=model,
        features=FeaturesConfig(device=options.device),
        image_size=options.image_size,
        localizer="none",
    )


def _read(group: str, name: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
    return settings


def _timed(task: Callable[[], object]) -> tuple[float, float]:
    started = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - started[0], time.process_time() - started[1]


if __name__ == "__main__":
    main()
