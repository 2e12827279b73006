"""What the benchmarks share: timing in turns, processes, a machine's description, pictures."""

from __future__ import annotations

import hashlib
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.config import BackboneConfig
from harness.data import NORMAL, Sample
from harness.features.extractor import LazyExtractor
from harness.features.reader import FeatureReader
from harness.system.threads import cores

PACKAGES = ("numpy", "pillow", "imagecodecs", "torch", "onnxruntime", "openvino")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def medians(tasks: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Time tasks in turns, so that all of them meet the same disturbances.

    Returns
    -------
    dict of str to float
        Median seconds by task, after one round that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for counted in [False] + [True] * rounds:
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if counted:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Alone:
    """A task in a process of its own, so that no other library has set up its memory or threads.

    Parameters
    ----------
    make : callable
        A function of a module, that makes the task; called in the process with `arguments`.
    arguments : object
        What it is called with.
    """

    def __init__(self, make: Callable[..., Callable[..., object]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, arguments), daemon=True).start()

    def __call__(self, *arguments: object) -> None:
        """Do the task once, and wait for it."""
        self._pipe.send(arguments)
        error = self._pipe.recv()
        if error is not None:
            raise RuntimeError(error)


def _serve(
    pipe: Connection, make: Callable[..., Callable[..., object]], arguments: Sequence[object]
) -> None:
    task = make(*arguments)
    while True:
        try:
            task(*pipe.recv())
            pipe.send(None)
        except EOFError:
            return
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Describe the machine and the libraries, in one line."""
    names = [f"{name} {_version(name)}" for name in packages]
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = lines[0].partition(":")[2].strip() if lines else processor
    return f"{processor}, {cores()} cores; Python {platform.python_version()}, " + (
        ", ".join(names)
    )


def has_bf16() -> bool:
    """Tell whether the processor computes in bf16; elsewhere it is refused, or emulated slowly."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def status_bytes(field: str) -> int:
    """One entry of this process's memory status, such as VmRSS, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise ValueError(f"field must be in /proc/self/status, got {field}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print()


def in_threads(task: Callable[[], object], n_calls: int, *, threads: int) -> None:
    """Call a task a number of times, from several threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: task(), range(n_calls)))


def write_pictures(folder: Path, n: int, *, size: int = 900, suffix: str = ".png") -> None:
    """Write images that compress about as photographs of objects do: soft shapes, faint noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        noisy = soft + rng.normal(0, 1.2, soft.shape)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{k:05}{suffix}")


def samples_in(folder: Path) -> list[Sample]:
    """Return every image below a folder as a normal sample; ground truth masks are left out."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and "ground_truth" not in path.parts
    )
    if not paths:
        raise SystemExit(f"no images in {folder}")
    return [
        Sample(
            root=p.parent,
            name=p.name,
            defect_type=NORMAL,
            anomalous=False,
            mask_name=None,
            digest=hashlib.sha256(p.read_bytes()).hexdigest(),
            mask_digest=None,
            size=(0, 0),
        )
        for p in paths
    ]


def backbone(factory: str | None) -> BackboneConfig:
    """Return a ResNet50: of random weights, whose values change no time, or by a factory."""
    arguments: dict[str, Any] = {} if factory else {"architecture": "resnet50"}
    return BackboneConfig(
        name="resnet50",
        factory=factory or "dfkde.backbones.torchvision:torchvision_model",
        arguments=arguments,
        layers=["layer4"],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )


def extractor_of(factory: str | None) -> LazyExtractor:
    """Return the extractor of `backbone`."""
    return LazyExtractor(backbone(factory), random_seed=0)


def extract_again(reader: FeatureReader, samples: Sequence[Sample], cache: Path) -> None:
    """Forget the features and extract them again."""
    for kind in ("pooled", "maps"):
        for path in cache.rglob(f"*.{kind}"):
            path.unlink()
    reader.pooled(samples)
