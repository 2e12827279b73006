"""What `python -m harness.predict` does, once its settings are read."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TextIO

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
from harness.system.terminal import csv_line, is_formula, to_cell
from harness.tracking import store_uri

if TYPE_CHECKING:
    from harness.predict import Predictor

CSV = "predictions.csv"
HEATMAPS = "heatmaps"
"""The folder of the heatmaps, in the one that the command writes to."""

_COLUMNS = ("path", "score", "verdict", "error")
_NOT_REGULAR = f"out must have a regular file {CSV}, no link, or none, got '{{}}'"
# Of the hottest colour, which an anomaly map has at so many times what training images reach.
_OPACITY, _HOTTEST = 0.6, 100.0


@dataclass(frozen=True)
class Settings:
    """The settings of the command."""

    model: str
    """A run's id, or the folder of an MLflow model or of a trained detector."""
    images: Path
    out: Path = Path("predictions")
    quantile: float = QUANTILE
    """Of the training scores, the threshold."""
    heatmaps: bool = True
    engine: str | None = None
    """In place of the one that the model was fitted with; `device` likewise."""
    device: str | None = None
    cache: str = "cache"
    """Folder of the feature cache."""
    tracking_uri: str | None = None
    """Where the run is; by default the SQLite store of the working folder."""
    trusted: tuple[str, ...] = ()
    """Classes and factories that the model may name beside this project's own."""


@dataclass
class Tally:
    """Numbers of images by verdict, and the threshold above which an image is anomalous."""

    threshold: float
    n_normal: int = 0
    n_anomalous: int = 0
    n_failed: int = 0

    def count(self, verdict: str | None) -> None:
        """Count an image."""
        self.n_normal += verdict == "normal"
        self.n_anomalous += verdict == "anomalous"
        self.n_failed += verdict is None


def run(settings: Settings, *, watch: Callable[[int, int], object]) -> Tally:
    """Score a folder of images and write a CSV file and heatmaps.

    `watch` is called with the numbers of images done and of all images. A wrong setting, or a model
    that names untrusted code, is a ValueError before any image is read.
    """
    check_quantile(settings.quantile)
    _check_out(settings)
    paths = image_files(settings.images, without=settings.out)
    predictor = _predictor(settings)
    tally = Tally(predictor.threshold(settings.quantile))
    settings.out.mkdir(parents=True, exist_ok=True)
    watch(0, len(paths))
    with _open_to_write(settings.out / CSV) as file:
        file.write(csv_line(_COLUMNS))
        predictions = _predictions(predictor, paths, settings)
        for done, (path, prediction) in enumerate(predictions, start=1):
            verdict = prediction.verdict(tally.threshold)
            file.write(csv_line(_row(path.relative_to(settings.images), prediction, verdict)))
            tally.count(verdict)
            watch(done, len(paths))
    return tally


def image_files(folder: Path, *, without: Path) -> dict[Path, str | None]:
    """List the image files of a folder and of the folders in it, sorted by path.

    Links are followed. Whatever has an image's name is listed, be it a pipe or a dangling link:
    reading it will fail. Hidden files are left out, and the heatmaps that an earlier command wrote
    into the folder `without`. The value is None, or for a folder why it cannot be listed.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got '{folder}'")
    written = os.path.realpath(without / HEATMAPS)
    found = dict(sorted(_listed(folder, written, within=())))
    if folder in found:
        raise ValueError(f"images must be a folder that can be listed, got '{folder}'")
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"images must be a folder with image files ({kinds}), got '{folder}'")
    return found


def overlay(
    image: NDArray[np.uint8], anomaly_map: NDArray[np.float64], *, map_values: Sequence[float]
) -> NDArray[np.uint8]:
    """Draw an anomaly map (h, w) over its RGB image (H, W, 3).

    Only the training images set the colours, by median and maximum of their maps, `map_values`:
    what their maps reach is transparent, and the colour is full at a hundred times that. Between,
    the scale is logarithmic, as a defect may exceed the training images a little or by orders of
    magnitude.
    """
    from matplotlib import colormaps

    from dfkde import render

    heat = _heat(render(anomaly_map, size=image.shape[:2]), *map_values)
    colour = colormaps["autumn_r"](heat)[..., :3] * 255
    opacity = _OPACITY * np.sqrt(heat)[..., None]
    return np.round(image * (1 - opacity) + colour * opacity).astype(np.uint8)


def _heat(values: NDArray[np.float64], median: float, maximum: float) -> NDArray[np.float64]:
    """Scale to [0, 1] the factor by which the training images' reach is exceeded."""
    reach = maximum - median
    if reach <= 0:  # all positions alike: whatever lies above is as hot as can be
        return (values > maximum).astype(np.float64)
    factor = np.maximum((values - median) / reach, 1)
    return np.minimum(np.log(factor) / np.log(_HOTTEST), 1)


def _check_out(settings: Settings) -> None:
    """Refuse what cannot be written to, or only through a link to another place."""
    out = settings.out
    if any(os.path.lexists(place) and not place.is_dir() for place in (out, *out.parents)):
        raise ValueError(f"out must be a folder, or a path where one can be made, got '{out}'")
    table, drawn = out / CSV, out / HEATMAPS
    if os.path.lexists(table) and not stat.S_ISREG(table.lstat().st_mode):
        raise ValueError(_NOT_REGULAR.format(table))
    is_own = drawn.is_dir() and not drawn.is_symlink()
    if settings.heatmaps and os.path.lexists(drawn) and not is_own:
        raise ValueError(f"out must have a folder {HEATMAPS} that is no link, or none, got '{out}'")


def _open_to_write(path: Path) -> TextIO:
    """Open a text file and empty it; no link is followed, and no pipe is waited for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode=0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(_NOT_REGULAR.format(path))
    os.ftruncate(descriptor, 0)
    return open(descriptor, "w", newline="", encoding="utf-8")


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
        elif is_image(entry.name) and not _is_below(path, written):
            yield path, None


def _is_below(path: Path, folder: str) -> bool:
    """Return whether a file, or what it links to, lies in a folder."""
    return Path(folder) in Path(os.path.realpath(path)).parents


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
    if (path / MODEL_FILE).is_file():
        yield detector_of(path)
    elif path.is_dir():
        yield path
    else:
        with TemporaryDirectory() as place:
            uri = store_uri(settings.tracking_uri)
            yield fetch_model(settings.model, uri, folder=Path(place))


def _predictions(
    predictor: Predictor, paths: dict[Path, str | None], settings: Settings
) -> Iterator[tuple[Path, Prediction]]:
    images = [path for path, fault in paths.items() if fault is None]
    found = predictor.predict(images, maps=settings.heatmaps)
    for path, fault in paths.items():
        prediction = next(found) if fault is None else Prediction(error=fault)
        yield path, _drawn(predictor, path, prediction, settings=settings)


def _drawn(
    predictor: Predictor, path: Path, prediction: Prediction, *, settings: Settings
) -> Prediction:
    """Draw the heatmap of an image; one that cannot be drawn keeps its score, beside the error."""
    if prediction.anomaly_map is None:
        return prediction
    try:
        target = _target(path.relative_to(settings.images), settings.out / HEATMAPS)
        _draw(predictor, path, prediction.anomaly_map, target=target)
    except (ValueError, OSError) as error:
        return replace(prediction, error=f"no heatmap: {reason_of(error, path)}")
    if target.name.startswith(path.name):
        return prediction
    return replace(prediction, error=f"its name is too long for its heatmap, {target.name}")


def _target(path: Path, folder: Path) -> Path:
    """Return where an image's heatmap goes; no folder on the way may be a link."""
    target = folder / path.with_name(_heatmap_name(path.name))
    for place in (folder / part for part in path.parents):
        if place.is_symlink():
            raise ValueError(f"a folder of heatmaps must be no link, got '{place}'")
    return target


def _heatmap_name(name: str) -> str:
    # The suffix stays in the name: a.png and a.jpg are two images.
    whole, data = f"{name}.png", os.fsencode(name)
    if len(os.fsencode(whole)) <= LONGEST_NAME:
        return whole
    # No other image's, whose heatmap has the ending of an image before its own.
    ending = f".{hashlib.sha256(data).hexdigest()[:16]}.png"
    return data[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending


def _draw(
    predictor: Predictor, path: Path, anomaly_map: NDArray[np.float64], *, target: Path
) -> None:
    image = read_image(path, decoding=predictor.reader.spec.decoding)
    inputs = predictor.detector.inputs
    # A crop's map covers no more than the crop.
    seen = region(
        image.shape[:2], image_size=inputs["image_size"], center_crop=inputs["center_crop"]
    )
    drawn = image.copy()
    drawn[seen] = overlay(image[seen], anomaly_map, map_values=inputs["map_values"])
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG", compress_level=1)
    write_atomically(target, content.getvalue())  # a link in its place is replaced


def _row(path: Path, prediction: Prediction, verdict: str | None) -> list[str]:
    # repr() of a float64 reads back to the same bits.
    score = "" if prediction.score is None else repr(prediction.score)
    name, error = path.as_posix(), prediction.error or ""
    try:
        name.encode()
    except UnicodeEncodeError:
        error = "; ".join(filter(None, ["its name is not valid UTF-8, and escaped here", error]))
        name = name.encode(errors="backslashreplace").decode()
    # The same path for a program, and no formula for a spreadsheet.
    name = f"./{name}" if is_formula(name) else name
    return [name, score, verdict or "", to_cell(error)]
