"""Where the configuration lies: beside the code in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """Return the folder of `dataset/`, `backbone/`, ...: `harness/conf`, else `conf`.

    Raises
    ------
    FileNotFoundError
        If neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "dataset").is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder 'conf' in '{package}' or beside it")
