from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.report.publish import check
from tests.report.golden import FOLDER, outputs


def _texts(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_bytes().decode() for path in folder.rglob("*.*")
    }


def test_mini_sweep_gives_the_committed_files(checkout: Path) -> None:
    assert outputs(checkout) == _texts(FOLDER)
    assert check(checkout) == ""


def test_the_files_depend_on_neither_hash_seed_nor_locale_nor_machine(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    environment["PYTHONUTF8"] = "0"
    subprocess.run(
        [sys.executable, "-m", "tests.report.golden", str(tmp_path)],
        env=environment,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert _texts(tmp_path) == _texts(FOLDER)
