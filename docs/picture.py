"""Draw the README's picture: a synthetic texture, and what a fitted DFKDE says of new images.

    python docs/picture.py

The images are drawn by `harness.data synthetic`: the datasets' own are not ours to publish. DFKDE
is fitted by `harness.run`; scores, verdicts and heatmaps are those of `harness.predict`, of the
first test image of each kind. Takes a minute or two.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from harness.tracking import read_runs

ROOT = Path(__file__).resolve().parent.parent
DATA = ("dataset=mvtec", "dataset.root=data")
TEXTURE = "carpet"
IMAGES = ("good/000.png", "scratch/000.png", "spot/000.png")
SIDE, GAP, LEFT, LINE = 128, 8, 92, 20
SIZE = (LEFT + len(IMAGES) * (SIDE + GAP), 2 * (SIDE + GAP) + 2 * LINE + GAP)


def run(folder: Path, *arguments: str) -> None:
    """Run one of this project's programs in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True)  # noqa: S603 - our own


def predict(folder: Path) -> dict[str, dict[str, str]]:
    """Write, fit and score the texture; return the lines of `predictions.csv` by image."""
    run(folder, "harness.data", "synthetic", *DATA, f"side={SIDE}", "scale=0.2")
    options = (f"category={TEXTURE}", "dataset.official=false", "backbone=efficientnet_lite0")
    run(folder, "harness.run", *DATA, *options, "save_model=true")
    [fitted] = read_runs(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    images = f"images=data/{TEXTURE}/test"
    run(folder, "harness.predict", f"model={fitted.run_id}", images)
    with (folder / "predictions" / "predictions.csv").open(newline="") as file:
        return {line["path"]: line for line in csv.DictReader(file)}


def draw(folder: Path, predicted: dict[str, dict[str, str]]) -> Image.Image:
    """Lay out a column for each image: the image, its heatmap, its score and its verdict."""
    picture = Image.new("RGB", SIZE, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    tops = {"image": GAP, "heatmap": 2 * GAP + SIDE, "score": 2 * (GAP + SIDE) + GAP // 2}
    for word, top in tops.items():
        middle = top + (0 if word == "score" else SIDE // 2 - LINE // 2)
        pen.text((GAP, middle), word, "black", font)
    for column, name in enumerate(IMAGES):
        left = LEFT + column * (SIDE + GAP)
        image = Image.open(folder / "data" / TEXTURE / "test" / name)
        heatmap = Image.open(folder / "predictions" / "heatmaps" / f"{name}.png")
        picture.paste(image.convert("RGB"), (left, tops["image"]))
        picture.paste(heatmap.convert("RGB"), (left, tops["heatmap"]))
        line = predicted[name]
        words = f"{float(line['score']):.1f}\n{line['verdict']}"
        pen.text((left, tops["score"]), words, "black", font)
    return picture


def main() -> None:
    """Write `picture.webp` beside this program."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = draw(folder, predict(folder))
    picture.save(Path(__file__).with_suffix(".webp"), quality=85)


if __name__ == "__main__":
    main()
