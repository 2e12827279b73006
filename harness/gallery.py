"""Pictures of what a run gets wrong and where it looks: `python -m harness.gallery`.

Of each finished run of a table: the images, anomaly maps and masks of its most confident mistakes
and of its best and worst localisations, small. Features come from the cache; nothing is measured
that a table shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dfkde import render
from harness.charts import coloured
from harness.config import Job
from harness.data import Sample, read_image, read_mask
from harness.experiment import EACH, wrong_side
from harness.features.settings import region
from harness.fitting import Fitted, anomaly_maps, fit, gt_mask_of
from harness.metrics import pixel_auroc
from harness.record import ImageScore
from harness.report.declaration import ReportError, read_tables
from harness.report.formats import COLUMNS, INDEX
from harness.report.results import backed_scores, read_results, to_csv
from harness.system.terminal import say
from harness.tracking import StoreError, read_job

SIZE = 160
"""Side of a picture, in pixels."""


def draw_gallery(job: Job, scores: Sequence[ImageScore], folder: Path) -> int:
    """Choose and write the pictures of a finished run into a folder; return how many images.

    Raises `DataError` where the images are not there any more, or not the same.
    """
    fitted = fit(job)
    # The rows and columns of a picture that the maps cover.
    seen = region((SIZE, SIZE), image_size=job.image_size, center_crop=job.center_crop)
    maps, auroc = _maps(fitted, seen)
    samples = {sample.name: sample for sample in fitted.split.test}
    shown = [*wrong_side(scores), *_localisations(scores, auroc)]
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[Sequence[str]] = [COLUMNS]
    for number, (kind, (name, defect_type, _, score), note) in enumerate(shown):
        files = _write(samples[name], maps.get(name), seen, folder / f"{number:02}")
        lines.append((kind, name, defect_type, repr(score), note, *files))
    index = folder / INDEX
    index.write_text(to_csv(lines), encoding="utf-8", errors="surrogatepass", newline="\n")
    return len(shown)


def _maps(fitted: Fitted, seen: Sequence[slice]) -> tuple[dict[str, NDArray], dict[str, float]]:
    """Draw the small anomaly maps, and measure the pixel AUROC of masks with both kinds."""
    height, width = (part.stop - part.start for part in seen)
    maps, auroc = {}, {}
    for sample, low in zip(fitted.split.test, anomaly_maps(fitted), strict=False):
        maps[sample.name] = render(low, size=(height, width))
        gt_mask = gt_mask_of(sample, fitted.job)
        if gt_mask.any() and not gt_mask.all():
            auroc[sample.name] = pixel_auroc([gt_mask], [render(low, size=gt_mask.shape)])
    return maps, auroc


def _localisations(
    scores: Sequence[ImageScore], auroc: dict[str, float]
) -> Iterator[tuple[str, ImageScore, str]]:
    """Yield the anomalous images with the highest and lowest pixel AUROC, as `wrong_side` does."""
    masked = [image for image in scores if image.image in auroc]
    ordered = sorted(masked, key=lambda image: -auroc[image.image])
    each = min(EACH, len(ordered) // 2)
    for kind, images in (("best_map", ordered[:each]), ("worst_map", ordered[::-1][:each])):
        for image in images:
            yield kind, image, f"pixel AUROC {auroc[image.image]:.3f}"


def _write(
    sample: Sample, anomaly_map: NDArray | None, seen: Sequence[slice], stem: Path
) -> Iterator[str]:
    """Write the pictures of one image; yield their names, empty for what there is not."""
    small = ((SIZE, SIZE), Image.Resampling.BOX)
    image = read_image(sample.path, sample.digest, sample.decoding)
    picture = Image.fromarray(image).resize(*small)
    drawn = gt_mask = None
    if anomaly_map is not None:
        rows, columns = seen
        box = (columns.start, rows.start, columns.stop, rows.stop)
        drawn, grey = picture.copy(), picture.crop(box).convert("L").convert("RGB")
        drawn.paste(Image.blend(grey, coloured(anomaly_map), 0.65), box)
    if sample.mask_path is not None:
        whole = read_mask(sample.mask_path, sample.mask_digest, sample.decoding)
        share = Image.fromarray(whole.astype(np.float32)).resize(*small)
        gt_mask = Image.fromarray(np.asarray(share) > 0)
    for ending, made in (("picture.webp", picture), ("map.webp", drawn), ("mask.png", gt_mask)):
        path = Path(f"{stem}_{ending}")
        if made is not None:
            made.save(path, quality=75)
        yield path.name if made is not None else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures of all tables that are asked for; return 1 if a category has none."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.gallery",
        description="Draw the pictures of the tables' runs, for `python -m harness.report html`.",
    )
    add = parser.add_argument
    add("tables", nargs="*", metavar="TABLE", help="which tables (default: all)")
    add("--root", type=Path, default=Path(), help="the checkout (default: .)")
    add("--uri", help="the MLflow tracking URI (default: this checkout's store)")
    add("--output", type=Path, default=Path("runs/gallery"), help="(default: %(default)s)")
    trusted = "models and backbones, as module:name, that a run may use beside this project's own"
    add("--trusted", nargs="+", default=[], metavar="NAME", help=trusted)
    options = parser.parse_args(arguments)
    try:
        return _draw_tables(options)
    except (ReportError, StoreError, OSError) as error:
        say(f"error: {error}", error=True)
        return 1


def _draw_tables(options: argparse.Namespace) -> int:
    failed = 0
    tables = {n: t for n, t in read_tables(options.root / "conf").items() if t.headline}
    unknown = sorted(set(options.tables) - set(tables))
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)} to draw; there are {', '.join(tables)}")
    for name in options.tables or tables:
        results = read_results(options.root / "results", name)
        scores = backed_scores(name, results)
        for row in filter(lambda row: row.finished, results.rows):
            folder = options.output / name / row.category
            try:
                job = read_job(row.run_id, options.uri, trusted=options.trusted)
                shown = draw_gallery(job, scores[row.category], folder)
                say(f"{job}: {shown} images in {folder}")
            except (ValueError, OSError) as error:
                say(f"error: {error}", error=True)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
