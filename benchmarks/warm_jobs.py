"""A second sweep over a category whose features are cached: what a job costs, stage by stage.

Run: `python -m benchmarks.warm_jobs [--root FOLDER] [--factory MODULE:FUNCTION]`. The first sweep
is one seed of one model; the second takes another seed, three numbers of components and four
models, without and with pixel metrics; then whole processes are timed, `--help` among them. With
`--categories N`, N categories, synthetic ones of the official numbers of images if there is no
root, are run cold and then warm with other density settings.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import backbone, machine, medians, table
from harness.config import DatasetConfig, FeaturesConfig, Job, ModelConfig, TrackingConfig
from harness.data.synthetic import Plan, write_synthetic
from harness.experiment import evaluate
from harness.features.reader import feature_reader
from harness.record import Record
from harness.sweep.task import Task, perform

MODELS = (
    *(ModelConfig("dfkde", "dfkde.density:DFKDE", {"n_components": k}) for k in (8, 16, 32)),
    ModelConfig("gaussian", "dfkde.baselines:Gaussian"),
    ModelConfig("knn", "dfkde.baselines:KNN"),
    ModelConfig("dfkde_residual", "dfkde.density:DFKDEResidual"),
)


def main() -> None:
    """Print the tables."""
    options = _options()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        if options.categories:
            sweep_categories(options, Path(folder))
        else:
            sweep_models(options, Path(folder))


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a folder in MVTec AD's layout; else synthetic images")
    parser.add_argument("--factory", help="module:function of the network; else a random ResNet50")
    parser.add_argument("--categories", type=int, default=0, help="number of categories")
    parser.add_argument("--side", type=int, default=900, help="size of synthetic images in pixels")
    return parser.parse_args()


def dataset(root: str | Path) -> DatasetConfig:
    """Return MVTec AD's settings for a folder."""
    path = Path(__file__).resolve().parents[1] / "conf" / "dataset" / "mvtec.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    return replace(DatasetConfig(**settings), root=str(root), official=False)


def make_job(options: Any, folder: Path, root: str | Path) -> Job:
    """Return the first job."""
    return Job(
        dataset=dataset(root),
        category="bottle",
        backbone=backbone(options.factory),
        model=ModelConfig("dfkde", "dfkde.density:DFKDE"),
        features=FeaturesConfig(device="cpu", cache=str(folder / "cache")),
    )


def sweep_models(options: Any, folder: Path) -> None:
    """Run one category cold, then again with another seed and every model."""
    root = options.root or write_synthetic(
        folder / "data", "mvtec", categories=["bottle"], plan=Plan(1.0, options.side)
    )
    job = make_job(options, folder, root)
    seconds, n_images = run_cold(job, folder)
    rows = [("cold, with pixel metrics", *seconds_of(seconds), n_images)]
    reader = feature_reader(job.backbone, job.features, image_size=job.image_size)
    for localizer in ("none", "occlusion"):
        before = reader.n_extracted
        seconds = run_all(replace(job, seed=7, localizer=localizer), folder)
        name = f"warm, localizer={localizer}"
        rows.append((name, *seconds_of(seconds), reader.n_extracted - before))
    table(["jobs", "number", "median s", "images through the backbone"], rows)
    show_stages(evaluate(replace(job, seed=8)))
    start_processes(folder, root)


def run_cold(job: Job, folder: Path) -> tuple[list[float], int]:
    """Run a job three times with caches of their own, the last one that of `job`, untracked.

    Returns
    -------
    seconds : list of float
    n_images : int
        How many images went through the backbone in the last one.
    """
    caches = [str(folder / "cache1"), str(folder / "cache2"), job.features.cache]
    seconds = []
    for cache in caches:
        each = replace(job, features=replace(job.features, cache=cache))
        seconds.append(timed(partial(evaluate, each)))
    reader = feature_reader(job.backbone, job.features, image_size=job.image_size)
    return seconds, reader.n_extracted


def seconds_of(seconds: Sequence[float]) -> tuple[int, str]:
    """Return how many they are, and the median."""
    return len(seconds), f"{statistics.median(seconds):.3f}"


def timed(task: Callable[[], object]) -> float:
    """Return the seconds that a task takes."""
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def start_processes(folder: Path, root: str | Path) -> None:
    """Time whole processes: the help, and one warm job of a backbone that needs no factory."""
    job = ["dataset=mvtec", "category=bottle", f"dataset.root={root}", "dataset.official=false"]
    job += ["backbone=efficientnet_lite0", "features.device=cpu", f"hydra.run.dir={folder / 'log'}"]
    job += [f"features.cache={folder / 'start'}", f"tracking.uri=sqlite:///{folder / 'start.db'}"]
    whole, plain = [*job, "force=true"], [*job, "force=true", "localizer=none"]
    start_process(whole)  # extracts
    commands = {"--help": ["--help"], "warm job": whole, "warm job, localizer=none": plain}
    tasks = {name: partial(start_process, command) for name, command in commands.items()}
    seconds = medians(tasks, rounds=3)
    table(["whole process", "median s"], [(name, f"{s:.2f}") for name, s in seconds.items()])


def start_process(arguments: Sequence[str]) -> None:
    """Run `python -m harness.run` to its end."""
    command = [sys.executable, "-m", "harness.run", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def run_all(job: Job, folder: Path) -> list[float]:
    """Run a job with each model, tracked; return the seconds of each."""
    store = TrackingConfig("mlflow", f"sqlite:///{folder / 'runs.db'}")
    jobs = [replace(job, seed=1), *(replace(job, model=model) for model in MODELS)]
    outcomes = [perform(Task(each, store, folder / "logs")) for each in jobs]
    for outcome in outcomes:
        if outcome.status != "finished":
            raise SystemExit(f"{outcome.job}: {outcome.status} {outcome.reason}")
    return [outcome.seconds for outcome in outcomes[1:]]  # the first one opens the store


def show_stages(record: Record) -> None:
    """Print the seconds of each stage of a job."""
    table(
        ["stage of a warm job", "s"],
        [(name, f"{seconds:.3f}") for name, seconds in record.durations.items()],
    )


def sweep_categories(options: Any, folder: Path) -> None:
    """Run many categories cold, then warm with other density settings."""
    names = dataset(".").categories[: options.categories]
    plan = Plan(1.0, options.side)
    root = options.root or write_synthetic(folder / "data", "mvtec", categories=names, plan=plan)
    job = replace(make_job(options, folder, root), localizer="none")
    cold = timed(partial(run_categories, job, names))
    others = [
        replace(job, model=ModelConfig("dfkde", "dfkde.density:DFKDE", {"n_components": k}))
        for k in (8, 24, 32)
    ]
    warm = statistics.median(timed(partial(run_categories, other, names)) for other in others)
    table(
        [f"{len(names)} categories", "s", "ratio"],
        [
            ("cold, once", f"{cold:.1f}", "1"),
            (f"warm, median of {len(others)}", f"{warm:.2f}", f"{cold / warm:.0f}"),
        ],
    )


def run_categories(job: Job, names: Sequence[str]) -> None:
    """Run all categories in this process, without tracking."""
    for name in names:
        evaluate(replace(job, category=name))


if __name__ == "__main__":
    main()
