"""Where a number comes from: the code's commit, the library versions, the machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from harness.threads import cores

_ROOT = Path(__file__).resolve().parent.parent
# What can change a number; an edited README or a new table does not make the code dirty.
_CODE = ("conf", "dfkde", "harness", "hydra_plugins", "pyproject.toml")
_PACKAGES = (
    "dfkde-benchmark",
    "mlflow",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)


class Commit(NamedTuple):
    """The state of the code.

    Attributes
    ----------
    sha : str
        The commit, 40 hexadecimal digits, or `unknown` outside a git checkout.
    dirty : bool
        Whether the code differs from that commit.
    """

    sha: str
    dirty: bool


@cache
def commit() -> Commit:
    """Return the commit of the running code."""
    sha = _git("rev-parse", "HEAD")
    if sha is None:
        return Commit("unknown", dirty=False)
    return Commit(sha, dirty=bool(_git("status", "--porcelain", "--", *_CODE)))


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    found = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v}


@cache
def machine() -> dict[str, str]:
    """Describe the machine without naming it: system, processor, cores."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(cores()),
    }


def _git(*arguments: str) -> str | None:
    # A package installed into a virtual environment inside somebody else's checkout must not
    # report that checkout's commit: only the folder that holds this project's own `.git` counts.
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
