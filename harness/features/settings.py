"""Which engine, device and precision the machine gives, found out without importing any engine."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from harness.config import FeaturesConfig
from harness.system.terminal import nearest

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
RESIZES = ("pil", "float_antialias")
MOST_WORKERS = 1024
"""More threads than any machine has use for; each holds a batch in memory."""

# ONNX and its script translate the backbone for the engines that do not run torch.
_NEEDS = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}

# Images in a batch, by device and engine. One at a time costs a CPU next to nothing and shares the
# work most finely; but torch packs its weights again for each batch.
_BATCHES = {("cuda", "torch"): 8, ("cpu", "torch"): 4}


def check_features(
    settings: FeaturesConfig, *, image_size: int, center_crop: int | None = None
) -> None:
    """Refuse a resize, numbers or sides in pixels that cannot be, on whatever machine."""
    if image_size < 1:
        raise ValueError(f"image_size must be an integer of at least 1, got {image_size!r}")
    if center_crop is not None and not 1 <= center_crop <= image_size:
        raise ValueError(
            f"center_crop must be null or an integer from 1 to image_size={image_size},"
            f" got {center_crop!r}"
        )
    _check("features.resize", settings.resize, RESIZES)
    if not 0 <= settings.workers <= MOST_WORKERS:
        raise ValueError(
            f"features.workers must be an integer from 0 to {MOST_WORKERS}, got {settings.workers}"
        )
    limit = settings.cache_limit_gb
    if limit is not None and not 0 < limit < float("inf"):
        raise ValueError(f"features.cache_limit_gb must be null or a number above 0, got {limit}")


def region(
    size: tuple[int, int], *, image_size: int, center_crop: int | None
) -> tuple[slice, slice]:
    """Return the rows and columns of a picture of the image that the backbone sees.

    `size` is the (H, W) of the image, of its mask or of any other picture of the whole image.
    Every row and column counts that the cropped square touches.

    Examples
    --------
    The central 224 of 256 pixels, in that image and in the original of 600 x 900 pixels:

    >>> region((256, 256), image_size=256, center_crop=224)
    (slice(16, 240, None), slice(16, 240, None))
    >>> region((600, 900), image_size=256, center_crop=224)
    (slice(37, 563, None), slice(56, 844, None))
    """
    if center_crop is None:
        return slice(0, size[0]), slice(0, size[1])
    first = (image_size - center_crop) // 2
    end = first + center_crop
    rows, columns = (slice(first * n // image_size, -(-end * n // image_size)) for n in size)
    return rows, columns


def input_shape(
    settings: FeaturesConfig, *, image_size: int, center_crop: int | None
) -> tuple[int, int, int, int]:
    """Return the shape of what the backbone is given at once here, (batch, 3, H, W)."""
    engine, _, device = resolve(settings)
    side = image_size if center_crop is None else center_crop
    return _BATCHES.get((device, engine), 1), 3, side, side


def resolve(settings: FeaturesConfig) -> tuple[str, str, str]:
    """Return engine, precision and device; `ValueError` for what the machine cannot honour."""
    device = resolve_device(settings.device)
    _check("precision", settings.precision, PRECISIONS)
    engine = resolve_engine(settings.engine, device=device, precision=settings.precision)
    return engine, settings.precision, device


def resolve_device(device: str) -> str:
    """Turn `auto` into `cuda` where a GPU and a torch built for it are present, else `cpu`."""
    _check("device", device, DEVICES)
    if device == "auto":
        return "cuda" if _has_cuda() else "cpu"
    if device == "cuda" and not _has_cuda():
        raise ValueError("device must be cpu or auto on this machine (no CUDA GPU), got 'cuda'")
    return device


def resolve_engine(engine: str, *, device: str, precision: str) -> str:
    """Turn `auto` into the fastest engine that is installed and check a named one."""
    _check("engine", engine, ENGINES)
    usable = usable_engines(device, precision)
    if engine == "auto":
        return usable[0]
    if engine not in usable:
        raise ValueError(
            f"engine must be one of {', '.join(usable)} for device {device} and precision"
            f" {precision} with what is installed here, got {engine!r}"
        )
    return engine


def usable_engines(device: str, precision: str) -> list[str]:
    """List the engines that are installed for a device and a precision, the fastest first."""
    engines: tuple[str, ...] = ("onnxruntime", "torch", "openvino")
    if device == "cuda":
        engines = ("torch",)
    elif precision == "bf16":
        engines = ("openvino", "torch")
    return [engine for engine in engines if all(find_spec(name) for name in _NEEDS[engine])]


def _check(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        rule = f"{argument} must be one of {', '.join(choices)}"
        raise ValueError(f"{rule}, got {value!r}{nearest(value, choices)}")


@cache
def _has_cuda() -> bool:
    """Ask the driver itself: importing torch to ask takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return False
    spec = find_spec("torch") if count.value else None
    folders = (spec and spec.submodule_search_locations) or []
    return any(Path(folder, "lib", "libtorch_cuda.so").exists() for folder in folders)
