"""Extraction by engine: the forward pass against the matrix-multiply rate, and whole cold runs.

Run: `python -m benchmarks.extraction [--images FOLDER] [--factory MODULE:FUNCTION]`. The baseline
is what one writes first: eager torch, batches of 16 on all cores, decoding and computing in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import (
    backbone,
    extract_again,
    in_threads,
    machine,
    medians,
    samples_in,
    table,
    write_pictures,
)
from harness.config import FeaturesConfig
from harness.data import Sample
from harness.features import FeatureReader, LazyExtractor
from harness.features.choice import usable_engines
from harness.features.engines import build_engine
from harness.features.inputs import read_input
from harness.features.store import FeatureStore
from harness.threads import cores

SIZE = 256
BATCH = 16
BASELINE = "eager torch"
Setting = tuple[str, str]


def settings_of(device: str, only: Sequence[str] = ()) -> list[Setting]:
    """Return every engine and precision that this machine offers, or some of them."""
    every = [
        (engine, precision)
        for precision in ("fp32", "bf16")
        for engine in usable_engines(device, precision)
    ]
    return [setting for setting in every if not only or " ".join(setting) in only]


def main() -> None:
    """Print both tables."""
    options = _options()
    print(f"{machine()}; device {options.device}\n")
    extractor = LazyExtractor(backbone(options.factory))
    with tempfile.TemporaryDirectory() as folder:
        forward(extractor, options, Path(folder))
        images = options.images
        if images is None:
            images = Path(folder) / "images"
            write_pictures(images, options.n)
        whole(extractor, options, samples_in(images)[: options.n], Path(folder))


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images; else synthetic 900x900 PNG")
    parser.add_argument("--factory", help="module:function of the network; else a random ResNet50")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--n", type=int, default=292, help="number of images")
    parser.add_argument("--only", nargs="+", default=(), help="settings such as 'torch fp32'")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def forward(extractor: LazyExtractor, options: Any, folder: Path) -> None:
    """Time the network alone, on images in memory."""
    tasks: dict[str, Callable[[], object]] = {
        "matrix multiply": partial(multiply, options.device),
        BASELINE: partial(eager_batch, extractor, options.device),
    }
    for setting in settings_of(options.device, options.only):
        tasks[" ".join(setting)] = engine_task(extractor, setting, options.device, folder)
    seconds = medians(tasks, rounds=options.rounds)
    flops = 2 * 2048**3 * n_multiplications(options.device)
    ceiling = flops / seconds.pop("matrix multiply") / flops_per_image(extractor)
    rates = {name: n_images(options.device) / value for name, value in seconds.items()}
    print(f"Forward: {flops_per_image(extractor) / 1e9:.1f} GFLOP per image; the fp32 matrix")
    print(f"multiply rate allows {ceiling:.1f} images/s.\n")
    table(
        ["forward", "images/s", f"x {BASELINE}", "of the fp32 limit"],
        [
            (name, f"{rate:.1f}", f"{rate / rates[BASELINE]:.2f}", f"{rate / ceiling:.0%}")
            for name, rate in rates.items()
        ],
    )


def n_images(device: str) -> int:
    """Return the number of images of one timed task."""
    return 16 * BATCH if device == "cuda" else 2 * BATCH


def n_multiplications(device: str) -> int:
    """Return the number of matrix products of one timed task."""
    return 200 if device == "cuda" else 2 * cores()


def multiply(device: str) -> None:
    """Multiply square matrices: one thread for each core, or on the GPU, without TF32."""
    matrix = torch.ones(2048, 2048, device=device)
    if device == "cuda":
        for _ in range(n_multiplications(device)):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()
        return

    def alone() -> None:
        torch.set_num_threads(1)
        torch.mm(matrix, matrix)

    in_threads(alone, n_multiplications(device), threads=cores())


def eager_batch(extractor: LazyExtractor, device: str) -> None:
    """Run the module as it is on batches in memory."""
    torch.set_num_threads(cores())
    batch = torch.ones(BATCH, 3, SIZE, SIZE)
    with torch.inference_mode():
        for _ in range(n_images(device) // BATCH):
            extractor.module.to(device)(batch.to(device))[0].cpu()


def engine_task(
    extractor: LazyExtractor, setting: Setting, device: str, folder: Path
) -> Callable[[], object]:
    """Return a task that runs an engine from as many threads as there are cores."""
    extractor.module.to("cpu")
    reader = open_reader(extractor, setting, device, folder)
    store = FeatureStore(folder, reader.recipe)
    engine = build_engine(extractor, reader.recipe, store=store, workers=cores())
    images = np.ones((reader.recipe.batch, 3, SIZE, SIZE), dtype=np.float32)
    n_calls = n_images(device) // reader.recipe.batch
    return partial(in_threads, partial(engine, images), n_calls, threads=cores())


def open_reader(
    extractor: LazyExtractor, setting: Setting, device: str, cache: Path
) -> FeatureReader:
    """Return a reader of one engine and precision."""
    engine, precision = setting
    settings = FeaturesConfig(engine=engine, precision=precision, device=device)
    return FeatureReader(extractor, image_size=SIZE, cache=cache, settings=settings)


def flops_per_image(extractor: LazyExtractor) -> int:
    """Count the floating point operations of one image."""
    module = extractor.module.to("cpu")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.ones(1, 3, SIZE, SIZE))
    return int(counter.get_total_flops())


def whole(extractor: LazyExtractor, options: Any, samples: list[Sample], folder: Path) -> None:
    """Time a category from files to features: cold, the next one of a sweep, and warm."""
    settings = {" ".join(setting): setting for setting in settings_of(options.device, options.only)}
    readers = {
        name: open_reader(extractor, setting, options.device, folder / name)
        for name, setting in settings.items()
    }
    tasks: dict[str, Callable[[], object]] = {
        BASELINE: partial(eager_loop, extractor, samples, options.device)
    }
    for name, setting in settings.items():
        tasks[f"{name} cold"] = partial(cold_run, extractor, setting, samples, options.device)
        tasks[f"{name} next"] = partial(extract_again, readers[name], samples, folder / name)
        tasks[f"{name} warm"] = partial(readers[name].pooled, samples)
    seconds = medians(tasks, rounds=max(1, options.rounds // 2))
    base = seconds[BASELINE]
    print(f"Whole: {len(samples)} images from file to features, both kinds written to the cache.")
    print(
        "`cold` builds the engine first; `next` is a category after it; `warm` reads the cache.\n"
    )
    table(
        ["whole", "cold s", "ratio", "next s", "ratio", "warm s"],
        [
            (BASELINE, f"{base:.1f}", "1.00", f"{base:.1f}", "1.00", "-"),
            *(_line(name, seconds, base=base) for name in settings),
        ],
    )


def _line(name: str, seconds: dict[str, float], *, base: float) -> tuple[str, ...]:
    cold, after = seconds[f"{name} cold"], seconds[f"{name} next"]
    warm = f"{seconds[f'{name} warm']:.3f}"
    return (name, f"{cold:.1f}", f"{base / cold:.2f}", f"{after:.1f}", f"{base / after:.2f}", warm)


def eager_loop(extractor: LazyExtractor, samples: list[Sample], device: str) -> None:
    """Decode a batch, compute it, and so on: the loop that one writes first."""
    torch.set_num_threads(cores())
    module = extractor.module.to(device)
    with torch.inference_mode():
        for batch in _batches(samples):
            images = [torch.from_numpy(read_input(s.path, image_size=SIZE)) for s in batch]
            module(torch.stack(images).to(device))[0].cpu()
    module.to("cpu")


def _batches(samples: list[Sample]) -> Iterator[list[Sample]]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]


def cold_run(
    extractor: LazyExtractor, setting: Setting, samples: list[Sample], device: str
) -> None:
    """Extract everything into an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        open_reader(extractor, setting, device, Path(cache)).pooled(samples)


if __name__ == "__main__":
    main()
