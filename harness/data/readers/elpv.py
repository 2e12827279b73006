"""ELPV: electroluminescence images of solar cells, with a defect probability each.

The files lie inside the Python package `elpv-dataset`: `labels.csv` (path, probability, type of
cell, separated by spaces) and `images/`. There is no official split. Cells with probability 0 are
normal, cells with probability 1 are defective; those in between (1/3 and 2/3) are left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from harness.atomic import DamagedError, read_regular
from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.listing import ImageFile, Listing, Problem, shown, stray, walk
from harness.data.split import NORMAL

LABELS = "labels.csv"


def packaged_root() -> Path | None:
    """Return the folder of the installed package's data, or None if it is not installed."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "data"


def read_elpv(root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
    """List the cells of one type, `mono` or `poly`, that are surely normal or defective."""
    files, problems = walk(root, "images")
    labels, digest = _labels(root)
    problems += [stray(name) for name in files if name not in labels]
    cells = []
    for name, (probability, cell_type) in labels.items():
        if cell_type != category or probability not in (0.0, 1.0):
            continue
        if name not in files:
            problems.append(Problem(name, f"is named in {LABELS} but missing"))
        defective = probability == 1.0
        cells.append(ImageFile(name, "defective" if defective else NORMAL, anomalous=defective))
    return Listing(
        train=(),
        test=tuple(sorted(cells)),
        problems=tuple(problems),
        files=files,
        documents={LABELS: digest},
        has_split=False,
    )


def _labels(root: Path) -> tuple[dict[str, tuple[float, str]], str]:
    """Read `labels.csv` as {name: (probability, type)}, with the SHA-256 of what was read."""
    try:
        data = read_regular(root / LABELS)
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError, DamagedError) as error:
        raise DataError(f"{root / LABELS}: cannot be read ({error})") from error
    labels: dict[str, tuple[float, str]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            name, probability, cell_type = line.split()
            if name in labels:
                raise ValueError(f"{shown(name)} occurs twice")
            labels[name] = (float(probability), cell_type)
        except ValueError as error:
            raise DataError(f"{root / LABELS}, line {number}: {error}") from error
    return labels, hashlib.sha256(data).hexdigest()
