"""Write the comparison of all models and maps, docs/models.md, from tracked runs.

Run the sweeps that the page names, then `python benchmarks/models.py [TRACKING_URI]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.metrics import HEADLINE, METRICS
from harness.record import Record
from harness.tracking.read import read_runs

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
MODELS = ("dfkde", "dfkde_residual", "knn", "gaussian", "constant")
MAPS = ("occlusion", "patch_density", "uniform")
COLUMNS = HEADLINE

HEAD = """\
# The models compared

All models, and the anomaly maps of DFKDE, with EfficientNet-Lite0 on MVTec AD's `bottle` and on a
resized copy of its `pill`. Seed 42, images of 256 px, pixel metrics at the masks' native size. Image
F1 is at its best threshold on the test labels, an *oracle*; `constant` shows what it is worth.

Made by `python benchmarks/models.py` from the runs of

```sh
python -m harness.run -m backbone=efficientnet_lite0 category=bottle \\
    model=dfkde,dfkde_residual,knn,gaussian,constant
python -m harness.run -m backbone=efficientnet_lite0 category=bottle \\
    localizer=patch_density,uniform
```

and the same with `category=pill dataset.official=false` on the copy resized to 256 px. What the
models and maps are stands in [method.md](method.md).
"""


def main() -> None:
    """Write the page from the newest run of each row."""
    uri = sys.argv[1] if len(sys.argv) > 1 else None
    records = [run.record for run in reversed(read_runs(uri)) if run.record]
    newest = {(one.category, one.model, one.settings["localizer"]): one for one in records}
    parts = [HEAD]
    for category in sorted({one.category for one in records}):
        rows = [newest[key] for key in _keys(category) if key in newest]
        parts.append(f"## {category}{_mark(rows[0])}\n\n{_table(rows)}\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _keys(category: str) -> list[tuple[str, str, str]]:
    maps = [(category, "dfkde", name) for name in MAPS]
    return [maps[0], *((category, name, MAPS[0]) for name in MODELS[1:]), *maps[1:]]


def _mark(record: Record) -> str:
    return "" if record.official else ": resized, **not official**"


def _table(rows: list[Record]) -> str:
    titles = [METRICS[name].display for name in COLUMNS]
    lines = [f"| Model | Map | {' | '.join(titles)} |", f"| --- | --- |{' ---: |' * len(titles)}"]
    for row in rows:
        values = " | ".join(f"{row.metrics[name]:.3f}" for name in COLUMNS)
        lines.append(f"| `{row.model}` | `{row.settings['localizer']}` | {values} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
