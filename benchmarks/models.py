"""Write the comparison of all models and maps, docs/models.md, from tracked runs.

Run the sweeps that the page names, then `python benchmarks/models.py [TRACKING_URI]`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.metrics import HEADLINE, METRICS
from harness.record import Record
from harness.tracking.read import read_runs

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
MODELS = {
    "dfkde": "dfkde.density:DFKDE",
    "dfkde_residual": "dfkde.density:DFKDEResidual",
    "knn": "dfkde.baselines:KNN",
    "gaussian": "dfkde.baselines:Gaussian",
    "constant": "dfkde.baselines:Constant",
}
MAPS = ("occlusion", "patch_density", "uniform")
LAYERS = ("bn2", "conv_head", "blocks.6", "blocks.5", "blocks.4", "blocks.3")
CATEGORIES = ("bottle", "pill")
COLUMNS = HEADLINE
# What the page says of its runs; a run that was made otherwise has no place on it.
DATASET, BACKBONE, SEED = "mvtec", "efficientnet_lite0", 42
BACKBONE_FACTORY = "dfkde.backbones.efficientnet_lite:efficientnet_lite"
DEFAULTS = {
    "image_size": "256",
    "center_crop": "None",
    "n_train": "None",
    "train_contamination": "0.0",
    "pixel_resolution": "None",
    "features.precision": "fp32",
    "features.resize": "pil",
    "model.n_components": "16",
    "model.max_training_points": "40000",
    "backbone.arguments.variant": "0",
}
Key = tuple[str, str, str, str]
"""Category, model, map and layer of a run."""

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

LAYERS_HEAD = """\
## Layers

The tables above are of `bn2`, the last feature map, which is what average pooling sees in the whole
network and the default here. `conv_head` is the convolution behind it, before normalisation and
activation; the blocks come before, `blocks.6` last. No layer is best for both: on `pill` every other
one lifts `dfkde_residual`, by up to .07, and on `bottle` the earlier ones cost up to .07 of `dfkde`.
To choose one by this table would be to choose it on test images. From

```sh
python -m harness.run -m backbone=efficientnet_lite0 category=bottle localizer=none \\
    model=dfkde,dfkde_residual 'backbone.layers=[conv_head],[blocks.6],[blocks.5],[blocks.4],[blocks.3]'
```

and the same for `pill`. Image AUROC:
"""


def main() -> None:
    """Write the page from the newest run of each row."""
    uri = sys.argv[1] if len(sys.argv) > 1 else None
    records = [run.record for run in reversed(read_runs(uri))]
    PAGE.write_text(page(records), encoding="utf-8")


def page(records: Sequence[Record]) -> str:
    """Return the page of these records, of which the last of each row counts."""
    newest = {_key(one): one for one in records if _belongs(one)}
    parts = [HEAD]
    for category in CATEGORIES:
        rows = [newest[key] for key in _keys(category) if key in newest]
        if rows:
            parts.append(f"## {category}{_mark(rows[0])}\n\n{_table(rows)}\n")
    parts.append(f"{LAYERS_HEAD}\n{_layers(newest)}\n")
    return "\n".join(parts)


def _belongs(one: Record) -> bool:
    """Tell whether a run is finished and differs from the defaults in nothing but its row."""
    made = (one.dataset, one.backbone, one.seed)
    built = (one.model_factory, one.backbone_factory)
    if built != (MODELS.get(one.model), BACKBONE_FACTORY):
        return False
    usual = all(one.settings.get(name, value) == value for name, value in DEFAULTS.items())
    return bool(one.metrics) and made == (DATASET, BACKBONE, SEED) and usual


def _key(one: Record) -> Key:
    return one.category, one.model, one.settings["localizer"], one.settings["backbone.layers"]


def _keys(category: str) -> list[Key]:
    layer = LAYERS[0]
    maps = [(category, "dfkde", name, layer) for name in MAPS]
    return [maps[0], *((category, name, MAPS[0], layer) for name in [*MODELS][1:]), *maps[1:]]


def _layers(newest: dict[Key, Record]) -> str:
    columns = [(category, model) for category in CATEGORIES for model in [*MODELS][:2]]
    marks = {key[0]: _mark(one) for key, one in newest.items()}
    titles = [f"`{model}`, {category}{marks.get(category, '')}" for category, model in columns]
    lines = [f"| Layer | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for layer in LAYERS:
        localizer = MAPS[0] if layer == LAYERS[0] else "none"
        row = [newest.get((category, model, localizer, layer)) for category, model in columns]
        values = " | ".join(f"{one.metrics['image_auroc']:.3f}" if one else "–" for one in row)
        lines.append(f"| `{layer}` | {values} |")
    return "\n".join(lines)


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
