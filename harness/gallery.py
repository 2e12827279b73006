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
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dfkde import render
from harness.config import Job
from harness.data import Sample, read_image, read_mask
from harness.experiment import EACH, wrong_side
from harness.features.settings import region
from harness.fitting import Fitted, anomaly_maps, fit, gt_mask_of
from harness.metrics import pixel_auroc
from harness.record import ImageScore
from harness.report.declaration import ReportError, read_tables
from harness.report.html import COLUMNS, INDEX
from harness.report.rows import to_csv
from harness.report.stored import backed_scores, read_or_empty
from harness.system.terminal import say
from harness.tracking import StoreError, read_job

SIZE = 160
"""Side of a picture, in pixels."""


class Shown(NamedTuple):
    """A test image chosen for the gallery: why, and what else is to be said."""

    kind: str  # as `harness.report.html` has a title for it
    sample: Sample
    score: float
    note: str


class Maps(NamedTuple):
    """The anomaly maps of a category's test images, small."""

    of: dict[str, NDArray]  # by image name; empty without a localizer
    auroc: dict[str, float]  # pixel AUROC within each image whose mask has both kinds of pixels
    seen: tuple[slice, slice]  # rows and columns of a picture that the maps cover


def draw_gallery(job: Job, scores: Sequence[ImageScore], folder: Path) -> int:
    """Choose and write the pictures of a finished run into a folder; return how many images.

    Raises `DataError` where the images are not there any more, or not the same.
    """
    fitted = fit(job)
    maps = _maps(fitted)
    samples = {sample.name: sample for sample in fitted.split.test}
    shown = [Shown(kind, samples[i.image], i.score, note) for kind, i, note in wrong_side(scores)]
    shown += _localisations(scores, samples, maps=maps)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [COLUMNS]
    for number, (kind, sample, score, note) in enumerate(shown):
        names = _write(sample, maps, folder / f"{number:02}")
        lines.append((kind, sample.name, sample.defect_type, repr(score), note, *names))
    index = folder / INDEX
    index.write_text(to_csv(lines), encoding="utf-8", errors="surrogatepass", newline="\n")
    return len(shown)


def _maps(fitted: Fitted) -> Maps:
    job = fitted.job
    seen = region((SIZE, SIZE), image_size=job.image_size, center_crop=job.center_crop)
    height, width = (part.stop - part.start for part in seen)
    of, auroc = {}, {}
    for sample, low in zip(fitted.split.test, anomaly_maps(fitted), strict=False):
        of[sample.name] = render(low, size=(height, width))
        gt_mask = gt_mask_of(sample, job)
        if gt_mask.any() and not gt_mask.all():
            auroc[sample.name] = pixel_auroc([gt_mask], [render(low, size=gt_mask.shape)])
    return Maps(of, auroc, seen)


def _localisations(
    scores: Sequence[ImageScore], samples: dict[str, Sample], *, maps: Maps
) -> Iterator[Shown]:
    """Choose the anomalous images with the highest and lowest pixel AUROC of their own."""
    score = {image.image: image.score for image in scores}
    ordered = sorted(maps.auroc, key=lambda name: -maps.auroc[name])
    each = min(EACH, len(ordered) // 2)
    for kind, names in (("best_map", ordered[:each]), ("worst_map", ordered[::-1][:each])):
        for name in names:
            note = f"pixel AUROC {maps.auroc[name]:.3f}"
            yield Shown(kind, samples[name], score[name], note)


def _write(sample: Sample, maps: Maps, stem: Path) -> tuple[str, str, str]:
    """Write the pictures of one image; return their names, empty for what there is not."""
    image = read_image(sample.path, sample.digest, sample.decoding)
    picture = np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
    names = [_save(picture, Path(f"{stem}_picture.webp")), "", ""]
    if sample.name in maps.of:
        drawn = picture.copy()
        drawn[maps.seen] = _overlay(picture[maps.seen], maps.of[sample.name])
        names[1] = _save(drawn, Path(f"{stem}_map.webp"))
    if sample.mask_path is not None:
        gt_mask = read_mask(sample.mask_path, sample.mask_digest, sample.decoding)
        small = cv2.resize(gt_mask.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        grey = np.repeat((small > 0)[:, :, None], 3, axis=2).astype(np.uint8) * 255
        names[2] = _save(grey, Path(f"{stem}_mask.png"))
    return names[0], names[1], names[2]


def _overlay(picture: NDArray[np.uint8], anomaly_map: NDArray) -> NDArray[np.uint8]:
    """Lay a map in colours over its grey image, from its own least to its own largest value."""
    low, high = anomaly_map.min(), anomaly_map.max()
    share = (anomaly_map - low) / (high - low) if high > low else np.zeros_like(anomaly_map)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blended = cv2.addWeighted(grey, 0.35, np.ascontiguousarray(colours), 0.65, 0)
    return np.asarray(blended, np.uint8)


def _save(pixels: NDArray[np.uint8], path: Path) -> str:
    quality = [cv2.IMWRITE_WEBP_QUALITY, 75] if path.suffix == ".webp" else []
    encoded, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels[:, :, ::-1]), quality)
    if not encoded:
        raise OSError(f"{path}: the picture could not be encoded")
    path.write_bytes(data.tobytes())
    return path.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures of all tables that are asked for; return 1 if a category has none."""
    options = _parser().parse_args(arguments)
    try:
        return _draw_tables(options)
    except (ReportError, StoreError, OSError) as error:
        say(f"error: {error}", error=True)
        return 1


def _parser() -> argparse.ArgumentParser:
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
    return parser


def _draw_tables(options: argparse.Namespace) -> int:
    failed = 0
    tables = {n: t for n, t in read_tables(options.root / "conf").items() if t.headline}
    unknown = sorted(set(options.tables) - set(tables))
    if unknown:
        raise ReportError(f"no table {', '.join(unknown)} to draw; there are {', '.join(tables)}")
    for name in options.tables or tables:
        results = read_or_empty(options.root / "results", name)
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
