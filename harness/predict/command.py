"""What `python -m harness.predict` does, once its settings are read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dfkde import Backbone, TrainedDetector
from harness.data import read_image
from harness.data.listing import IMAGE_SUFFIXES, is_image, is_junk
from harness.features.settings import region
from harness.predict import QUANTILE, Prediction, check_quantile, reason_of
from harness.predict.model import MODEL_FILE, detector_of, fetch_model
from harness.system.files import LONGEST_NAME, write_atomically
from harness.system.secrets import server_address
from harness.system.terminal import csv_line, is_formula, to_cell
from harness.tracking import store_uri

if TYPE_CHECKING:
    from harness.predict import Predictor

log = logging.getLogger(__name__)

CSV, JSON_LINES = "predictions.csv", "predictions.jsonl"
"""The tables, in the folder that the command writes to."""
HEATMAPS, MAPS = "heatmaps", "maps"
"""The folders of the pictures and of the anomaly maps, beside the tables."""

_SUFFIXES = {HEATMAPS: ".png", MAPS: ".npy"}


@dataclass(frozen=True)
class Settings:
    """The settings of the command."""

    model: str
    """A run's id or `runs:/ID`, or the folder of an MLflow model or of a trained detector."""
    images: tuple[Path, ...]
    """Image files, and folders of them."""
    out: Path = Path("predictions")
    quantile: float = QUANTILE
    """Of the held-out training scores, the threshold; of their maps, that of contours."""
    heatmaps: bool = True
    """Draw anomaly maps in colours."""
    contours: bool = False
    """Outline what exceeds the maps of normal images."""
    maps: bool = False
    """Write anomaly maps as arrays."""
    engine: str | None = None
    """In place of the one that the model was fitted with; `device` likewise."""
    device: str | None = None
    cache: str = "cache"
    """Folder of the feature cache."""
    tracking_uri: str | None = None
    """Where the run is; else as `MLFLOW_TRACKING_URI` says, else in the working folder's store."""
    trusted: tuple[str, ...] = ()
    """Classes and factories that the model may name beside this project's own."""

    def __post_init__(self) -> None:
        """Check the names."""
        if not all(":" in name for name in self.trusted):
            rule = "trusted must be names such as mymodule:Centroid,mynet:build"
            raise ValueError(f"{rule}, got '{','.join(self.trusted)}'")

    @property
    def pictures(self) -> bool:
        """Whether any picture is drawn."""
        return self.heatmaps or self.contours


class Listed(NamedTuple):
    """A file to be scored."""

    name: Path
    """Its path relative to the folder that all images lie in."""
    path: Path
    fault: str | None = None
    """Of a folder, why it cannot be listed."""


class Row(NamedTuple):
    """A row of the tables; the fields are the columns."""

    path: Path
    score: float | None
    percentile: float | None
    threshold: float
    verdict: str | None
    error: str | None


def run(
    settings: Settings, *, watch: Callable[[int, int], object]
) -> tuple[float, Counter[str | None]]:
    """Score images, write tables, heatmaps and anomaly maps; return threshold and verdicts.

    `watch` is called with the numbers of images done and of all images. A wrong setting, or a model
    that names untrusted code, is a ValueError before any image is read.
    """
    check_quantile(settings.quantile)
    _check_out(settings)
    files = image_files(settings.images, without=settings.out)
    predictor = _predictor(settings)
    settings = _checked(settings, predictor)
    threshold, verdicts = predictor.threshold(settings.quantile), Counter[str | None]()
    settings.out.mkdir(parents=True, exist_ok=True)
    watch(0, len(files))
    with (
        _open_to_write(settings.out / CSV) as table,
        _open_to_write(settings.out / JSON_LINES) as lines,
    ):
        table.write(csv_line(Row._fields))
        images = [one.path for one in files if one.fault is None]
        found = predictor.predict(images, maps=settings.pictures or settings.maps)
        for done, one in enumerate(files, start=1):
            prediction = next(found) if one.fault is None else Prediction(error=one.fault)
            prediction = _written(predictor, one, prediction, settings=settings)
            verdict, score = prediction.verdict(threshold), prediction.score
            percentile = None if score is None else predictor.percentile(score)
            row = Row(one.name, score, percentile, threshold, verdict, prediction.error)
            table.write(csv_line(_cells(row)))
            # In ASCII; a byte that is not UTF-8 is \udcXX, as in Python's paths.
            lines.write(json.dumps(row._asdict() | {"path": row.path.as_posix()}) + "\n")
            verdicts[verdict] += 1
            watch(done, len(files))
    return threshold, verdicts


def _checked(settings: Settings, predictor: Predictor) -> Settings:
    """Say what a reader of the results must know of the model; without a localizer, draw none."""
    detector, quantile = predictor.detector, settings.quantile
    low, high = (100 * share for share in predictor.false_alarms(quantile))
    if high > 200 * (1 - quantile):
        log.warning(
            "the threshold rests on %d normal images: %.1f to %.1f %% of other normal images may"
            " exceed it (90 %% interval)",
            *(len(detector.train_scores), low, high),
        )
    if detector.inputs["map_values"] is not None:
        return settings
    for name in ("contours", "maps"):
        if getattr(settings, name):
            raise ValueError(f"{name} must be false for a model with localizer=none, got true")
    if settings.heatmaps:
        log.warning("no heatmaps are drawn: the model has localizer=none")
    return replace(settings, heatmaps=False)


def image_files(images: Sequence[Path], *, without: Path) -> list[Listed]:
    """List image files, and those of folders and of the folders in them, sorted by name.

    Links are followed. Whatever has an image's name is listed, be it a pipe or a dangling link:
    reading it will fail. So is what is given as a file, whatever its name. Hidden files in folders
    are left out, and the heatmaps that an earlier command wrote into the folder `without`.
    """
    written = os.path.realpath(without / HEATMAPS)
    found: dict[Path, str | None] = {}
    for place in images:
        if not os.path.lexists(place):
            raise ValueError(f"images must be image files or folders, got '{place}'")
        listed = dict(_listed(place, written, within=())) if place.is_dir() else {place: None}
        if place in listed and place.is_dir():
            raise ValueError(f"images must be folders that can be listed, got '{place}'")
        if not listed:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"images must be folders with image files ({kinds}), got '{place}'")
        found |= listed
    folders = [place if place.is_dir() else place.parent for place in images]
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    named = {Path(os.path.relpath(os.path.abspath(path), common)): path for path in found}
    return [Listed(name, named[name], found[named[name]]) for name in sorted(named)]


def _check_out(settings: Settings) -> None:
    """Refuse what cannot be written to, or only through a link to another place."""
    out = settings.out
    if any(os.path.lexists(place) and not place.is_dir() for place in (out, *out.parents)):
        raise ValueError(f"out must be a folder, or a path where one can be made, got '{out}'")
    for name in (CSV, JSON_LINES):
        if os.path.lexists(out / name) and not stat.S_ISREG((out / name).lstat().st_mode):
            rule = f"out must have a regular file {name}, no link, or none"
            raise ValueError(f"{rule}, got '{out / name}'")
    for name, needed in ((HEATMAPS, settings.pictures), (MAPS, settings.maps)):
        is_own = (out / name).is_dir() and not (out / name).is_symlink()
        if needed and os.path.lexists(out / name) and not is_own:
            raise ValueError(f"out must have a folder {name} that is no link, or none, got '{out}'")


def _open_to_write(path: Path) -> TextIO:
    """Open a text file and empty it; no link is followed, and no pipe is waited for."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode=0o666)

    return open(path, "w", newline="", encoding="utf-8", opener=opener)


def _listed(
    folder: Path, written: str, *, within: tuple[str, ...]
) -> Iterator[tuple[Path, str | None]]:
    place = os.path.realpath(folder)
    if place == written:
        return
    if place in within:
        yield folder, "cannot be listed (it is a link to a folder that it lies in)"
        return
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    for entry in entries:
        path = folder / entry.name
        if is_junk(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False) or os.path.isdir(path):
            yield from _listed(path, written, within=(*within, place))
        # Nor what is written, if a link leads there.
        elif is_image(entry.name) and Path(written) not in Path(os.path.realpath(path)).parents:
            yield path, None


def _predictor(settings: Settings) -> Predictor:
    with _detector_folder(settings) as folder:
        # Before what computes is imported: that takes longer than to find what is missing.
        Backbone.load(folder, trusted=settings.trusted).check()
        detector = TrainedDetector.load(folder, trusted=settings.trusted)
    from harness.predict import Predictor

    return Predictor(detector, cache=settings.cache, engine=settings.engine, device=settings.device)


@contextmanager
def _detector_folder(settings: Settings) -> Iterator[Path]:
    # Of an MLflow model only the detector is read, none of its folder's code or settings.
    path = Path(settings.model)
    if path.is_dir():
        if settings.tracking_uri is not None:
            store_uri(settings.tracking_uri)  # refuses a password
            log.warning("tracking.uri is not used: model is a folder")
        yield detector_of(path) if (path / MODEL_FILE).is_file() else path
    else:
        with TemporaryDirectory() as place:
            uri = store_uri(settings.tracking_uri or server_address(store_uri()))
            yield fetch_model(settings.model, uri, folder=Path(place))


def _written(
    predictor: Predictor, one: Listed, prediction: Prediction, *, settings: Settings
) -> Prediction:
    """Write map and heatmap of an image; where that fails it keeps its score, beside the error."""
    anomaly_map = prediction.anomaly_map
    if anomaly_map is None:
        return prediction
    errors = []
    wanted = {MAPS: settings.maps, HEATMAPS: settings.pictures}
    for folder in (folder for folder in wanted if wanted[folder]):
        kind, content = folder.removesuffix("s"), io.BytesIO()
        try:
            target = _target(one.name, settings.out / folder)
            if folder == MAPS:
                np.save(content, anomaly_map, allow_pickle=False)
            else:
                drawn = _drawn(predictor, one.path, anomaly_map, settings=settings)
                Image.fromarray(drawn).save(content, "PNG", compress_level=1)
            write_atomically(target, content.getvalue())  # a link in its place is replaced
        except (ValueError, OSError) as error:
            errors.append(f"no {kind}: {reason_of(error, one.path)}")
            continue
        if not target.name.startswith(one.name.name):
            errors.append(f"its name is too long for its {kind}, {target.name}")
    return replace(prediction, error="; ".join(errors) or None)


def _target(name: Path, folder: Path) -> Path:
    """Return where what is written of an image goes; no folder on the way may be a link.

    The image's own suffix stays in the name: a.png and a.jpg are two images.
    """
    for place in (folder / part for part in name.parents):
        if place.is_symlink():
            raise ValueError(f"a folder of {folder.name} must be no link, got '{place}'")
    suffix, data = _SUFFIXES[folder.name], os.fsencode(name.name)
    if len(data) + len(suffix) <= LONGEST_NAME:
        return folder / name.with_name(f"{name.name}{suffix}")
    # No other image's, whose heatmap has the ending of an image before its own.
    ending = f".{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
    start = data[: LONGEST_NAME - len(ending)].decode(errors="ignore")
    return folder / name.with_name(start + ending)


def _drawn(
    predictor: Predictor, path: Path, anomaly_map: NDArray[np.float64], *, settings: Settings
) -> NDArray[np.uint8]:
    """Draw what is asked for over an image; a crop's map covers no more than the crop."""
    from harness.predict.drawing import overlay, with_contours

    image = read_image(path, decoding=predictor.reader.spec.decoding)
    inputs = predictor.detector.inputs
    seen = region(
        image.shape[:2], image_size=inputs["image_size"], center_crop=inputs["center_crop"]
    )
    drawn = image.copy()
    if settings.heatmaps:
        drawn[seen] = overlay(drawn[seen], anomaly_map, scale=predictor.map_scale)
    if settings.contours:
        threshold = predictor.map_threshold(settings.quantile)
        drawn[seen] = with_contours(drawn[seen], anomaly_map, threshold=threshold)
    return drawn


def _cells(row: Row) -> list[str]:
    name, error = row.path.as_posix(), row.error or ""
    try:
        name.encode()
    except UnicodeEncodeError:
        rule = f"its name is not valid UTF-8, and escaped here; {JSON_LINES} has its bytes"
        error = "; ".join(filter(None, [rule, error]))
        name = name.encode(errors="backslashreplace").decode()
    # The same path for a program, and no formula for a spreadsheet.
    name = f"./{name}" if is_formula(name) else name
    # repr() of a float64 reads back to the same bits.
    numbers = ["" if n is None else repr(n) for n in (row.score, row.percentile, row.threshold)]
    return [name, *numbers, row.verdict or "", to_cell(error)]
