"""How many files of the project one job passes through: `python -m benchmarks.files_per_job`.

Runs the demo in this process, with an empty cache and an empty store in a temporary folder, and
notes each function of `harness`, `dfkde` and `hydra_plugins` that is called, in every thread. Prints
the files with the number of functions called in each, and how many there are. Code that a module
runs while it is imported does not count.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "dfkde", "hydra_plugins")


def main(overrides: list[str]) -> None:
    """Run one job and print the files that it passes through."""
    called: dict[str, set[str]] = defaultdict(set)

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_qualname != "<module>":
            called[frame.f_code.co_filename].add(frame.f_code.co_qualname)

    with tempfile.TemporaryDirectory() as folder:
        places = [f"features.cache={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        sys.argv = ["harness.run", "experiment=demo", *places, f"hydra.run.dir={folder}/run"]
        sys.argv += overrides
        from harness.run import main as run

        threading.setprofile(note)
        sys.setprofile(note)
        try:
            run()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    folders = [f"{ROOT / package}/" for package in PACKAGES]
    modules = {file: names for file, names in called.items() if file.endswith(".py")}
    own = {f: names for f, names in modules.items() if any(map(f.startswith, folders))}
    for file in sorted(own):
        print(f"{len(own[file]):>4}  {Path(file).relative_to(ROOT)}")
    print(f"{len(own)} files with a function that is called")


if __name__ == "__main__":
    main(sys.argv[1:])
