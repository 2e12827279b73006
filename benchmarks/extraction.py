"""Extraction by engine: the forward pass against the matrix-multiply rate, and whole cold runs.

Run: `python -m benchmarks.extraction [--images FOLDER] [--factory MODULE:FUNCTION]`. The baseline
is what one writes first: eager torch, batches of 16 on all cores, decoding and computing in turns.
Each competitor has a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import (
    Alone,
    extract_again,
    extractor_of,
    has_bf16,
    in_threads,
    machine,
    medians,
    samples_in,
    table,
    write_pictures,
)
from harness.config import FeaturesConfig
from harness.data import Sample
from harness.features.engines import build_engine
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader
from harness.features.settings import usable_engines
from harness.system.threads import cores

SIZE = 256
BATCH = 16
BASELINE = "eager torch"
Setting = tuple[str, str]


def settings_of(device: str, only: Sequence[str] = ()) -> list[Setting]:
    """Return every engine and precision that this machine offers, or some of them."""
    precisions = ("fp32", "bf16") if device == "cuda" or has_bf16() else ("fp32",)
    every = [
        (engine, precision)
        for precision in precisions
        for engine in usable_engines(device, precision)
    ]
    return [setting for setting in every if not only or " ".join(setting) in only]


def main() -> None:
    """Print both tables."""
    options = _options()
    print(f"{machine()}; device {options.device}\n")
    with tempfile.TemporaryDirectory() as folder:
        forward(options, Path(folder))
        if options.images is None:
            options.images = Path(folder) / "images"
            write_pictures(options.images, options.n)
        whole(options, Path(folder))


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images; else synthetic 900x900 PNG")
    parser.add_argument("--factory", help="module:function of the network; else a random ResNet50")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--n", type=int, default=292, help="number of images")
    parser.add_argument("--only", nargs="+", default=(), help="settings such as 'torch fp32'")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def forward(options: Any, folder: Path) -> None:
    """Time the network alone, on images in memory."""
    tasks: dict[str, Callable[..., object]] = {
        "matrix multiply": Alone(multiply_task, options),
        BASELINE: Alone(eager_task, options),
    }
    for setting in settings_of(options.device, options.only):
        tasks[" ".join(setting)] = Alone(engine_task, options, setting, folder)
    seconds = medians(tasks, rounds=options.rounds)
    flops = flops_per_image(extractor_of(options.factory))
    done = 2 * 2048**3 * n_multiplications(options.device)
    ceiling = done / seconds.pop("matrix multiply") / flops
    rates = {name: n_images(options.device) / value for name, value in seconds.items()}
    print(f"Forward: {flops / 1e9:.1f} GFLOP per image; the fp32 matrix multiply rate allows")
    print(f"{ceiling:.1f} images/s.\n")
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


def multiply_task(options: Any) -> Callable[[], None]:
    """Multiply square matrices: one thread for each core, or on the GPU, without TF32."""
    device, matrix = options.device, torch.ones(2048, 2048, device=options.device)

    def on_gpu() -> None:
        for _ in range(n_multiplications(device)):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()

    def alone() -> None:
        torch.set_num_threads(1)
        torch.mm(matrix, matrix)

    on_cores = partial(in_threads, alone, n_multiplications(device), threads=cores())
    return on_gpu if device == "cuda" else on_cores


def eager_task(options: Any) -> Callable[[], None]:
    """Run the module as it is on batches in memory."""
    torch.set_num_threads(cores())
    module = extractor_of(options.factory).module.to(options.device)
    batch = torch.ones(BATCH, 3, SIZE, SIZE)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(n_images(options.device) // BATCH):
                module(batch.to(options.device))[0].cpu()

    return run


def engine_task(options: Any, setting: Setting, folder: Path) -> Callable[[], object]:
    """Run an engine from as many threads as there are cores."""
    extractor = extractor_of(options.factory)
    spec = open_reader(extractor, setting, options.device, folder).spec
    engine = build_engine(extractor, spec, cache=folder, workers=cores())
    images = np.ones((spec.batch, 3, SIZE, SIZE), dtype=np.float32)
    n_calls = n_images(options.device) // spec.batch
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
    module = extractor.module
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.ones(1, 3, SIZE, SIZE))
    return int(counter.get_total_flops())


def whole(options: Any, folder: Path) -> None:
    """Time a category from files to features: cold, the next one of a sweep, and warm."""
    names = [" ".join(setting) for setting in settings_of(options.device, options.only)]
    tasks: dict[str, Callable[..., object]] = {BASELINE: Alone(EagerLoop, options)}
    for setting in settings_of(options.device, options.only):
        name = " ".join(setting)
        process = Alone(Category, options, setting, folder / name)
        tasks |= {f"{name} {how}": partial(process, how) for how in ("cold", "next", "warm")}
    seconds = medians(tasks, rounds=max(1, options.rounds // 2))
    base = seconds[BASELINE]
    n = len(images_of(options))
    print(f"Whole: {n} images from file to features, both kinds written to the cache.")
    print(
        "`cold` builds the engine first; `next` is a category after it; `warm` reads the cache.\n"
    )
    table(
        ["whole", "cold s", "ratio", "next s", "ratio", "warm s"],
        [
            (BASELINE, f"{base:.1f}", "1.00", f"{base:.1f}", "1.00", "-"),
            *(_line(name, seconds, base=base) for name in names),
        ],
    )


def images_of(options: Any) -> list[Sample]:
    """Return the images to extract."""
    return samples_in(options.images)[: options.n]


def _line(name: str, seconds: dict[str, float], *, base: float) -> tuple[str, ...]:
    cold, after = seconds[f"{name} cold"], seconds[f"{name} next"]
    warm = f"{seconds[f'{name} warm']:.3f}"
    return (name, f"{cold:.1f}", f"{base / cold:.2f}", f"{after:.1f}", f"{base / after:.2f}", warm)


class EagerLoop:
    """Decode a batch with Pillow, compute it, and so on: the loop that one writes first."""

    def __init__(self, options: Any) -> None:
        torch.set_num_threads(cores())
        self.samples, self.device = images_of(options), options.device
        self.module = extractor_of(options.factory).module.to(self.device)

    def __call__(self) -> None:
        """Compute all images."""
        with torch.inference_mode():
            for start in range(0, len(self.samples), BATCH):
                images = [self.read(one.path) for one in self.samples[start : start + BATCH]]
                self.module(torch.stack(images).to(self.device))[0].cpu()

    @staticmethod
    def read(path: Path) -> torch.Tensor:
        """Read an image as torch's pipelines do."""
        with Image.open(path) as file:
            image = file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Category:
    """Extract a category with one engine: cold, as the next one of a sweep, or warm."""

    def __init__(self, options: Any, setting: Setting, cache: Path) -> None:
        self.samples, self.cache = images_of(options), cache
        self.extractor = extractor_of(options.factory)
        _ = self.extractor.module  # the loop above has it ready, too
        self.open = partial(open_reader, self.extractor, setting, options.device)
        self.reader = self.open(cache)

    def __call__(self, how: str) -> None:
        """Extract them: `cold`, `next` or `warm`."""
        if how == "warm":
            self.reader.pooled(self.samples)
        elif how == "next":
            extract_again(self.reader, self.samples, self.cache)
        else:
            with tempfile.TemporaryDirectory() as cache:
                self.open(Path(cache)).pooled(self.samples)


if __name__ == "__main__":
    main()
