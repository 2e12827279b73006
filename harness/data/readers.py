"""The layouts on disk, by name: from file names to images, labels and masks."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import listdir
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from harness.config import DatasetConfig
from harness.data.listing import (
    NO_MASK,
    DataError,
    Files,
    ImageFile,
    Listing,
    Problem,
    is_image,
    no_masks,
    pair_masks,
    shown,
    stem,
    stray,
    walk,
)
from harness.data.split import NORMAL
from harness.system.files import DamagedError, read_regular
from harness.system.terminal import alike

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


def read_folder(root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
    """List the user's images; the split comes from the seed."""
    folder = _folder(root, category, normal_dir=dataset.normal_dir)
    files, problems = walk(root, folder)
    images: list[ImageFile] = []
    masks: list[str] = []
    for name in files:
        top, _, below = name.removeprefix(f"{folder}/").partition("/")
        if not is_image(name) or top not in _folders(dataset):
            problems.append(stray(name))
        elif top == dataset.mask_dir:
            masks.append(name)
        elif top == dataset.normal_dir:
            images.append(ImageFile(name, NORMAL, anomalous=False))
        else:
            images.append(ImageFile(name, _defect_type(below), anomalous=True))
    keys = {f"{image.defect_type}/{stem(image.name)}" for image in images if image.anomalous}
    keyed = [(_mask_key(name, f"{folder}/{dataset.mask_dir}/", keys), name) for name in masks]
    paired, unpaired = pair_masks(images, keyed, category=category)
    return Listing(
        train=(),
        test=tuple(paired),
        problems=(*problems, *unpaired),
        files=files,
        has_split=False,
    )


def _folder(root: Path, category: str, *, normal_dir: str) -> str:
    """Return the category's folder below the root; empty where the root itself is."""
    for folder in (category, ""):
        if (root / folder / normal_dir).is_dir():
            return folder
    where = f"neither '{root / category}' nor '{root}'"
    held = [name for place in (root / category, root) if place.is_dir() for name in listdir(place)]
    hint = alike(normal_dir, held) or alike(category, held)
    raise DataError(
        f"{where} holds a folder '{normal_dir}' of normal images (dataset.normal_dir){hint}"
    )


def _folders(dataset: DatasetConfig) -> tuple[str, str, str]:
    return dataset.normal_dir, dataset.abnormal_dir, dataset.mask_dir


def _mask_key(name: str, top: str, keys: set[str]) -> str:
    """Return the key of the image that a mask belongs to: of its exact name, if there is one."""
    key = f"{_defect_type(name.removeprefix(top))}/{stem(name)}"
    return key if key in keys else key.removesuffix("_mask")


def _defect_type(below: str) -> str:
    """Return the folder below the abnormal images, or `abnormal` for a file right inside."""
    folder = PurePosixPath(below).parent
    return "abnormal" if folder == PurePosixPath() else str(folder)


_TEXTS = frozenset({"license.txt", "readme.txt"})


@dataclass
class _Found:
    """The files of one category, by their place."""

    train: list[ImageFile] = field(default_factory=list)
    test: list[ImageFile] = field(default_factory=list)
    masks: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_mvtec(root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
    """List a category of MVTec AD: normal images in `good`, masks `000_mask.png`."""
    return _read_tree(root, category, normal="good", mask_ending="_mask")


def read_btad(root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
    """List a category of BTAD: normal images in `ok`, masks named as their images."""
    return _read_tree(root, category, normal="ok", mask_ending="")


def _read_tree(root: Path, category: str, *, normal: str, mask_ending: str) -> Listing:
    files, problems = walk(root, category)
    found = _sort_out(files, normal=normal, mask_ending=mask_ending)
    test, unpaired = pair_masks(found.test, found.masks, category=category)
    return Listing(
        train=tuple(found.train),
        test=tuple(test),
        problems=(*problems, *found.problems, *unpaired),
        files=files,
    )


def _sort_out(files: Files, *, normal: str, mask_ending: str) -> _Found:
    found = _Found()
    for name in files:
        match name.split("/")[1:]:
            case ["train", folder, _] if folder == normal and is_image(name):
                found.train.append(ImageFile(name, NORMAL, anomalous=False))
            case ["test", folder, _] if folder == normal and is_image(name):
                found.test.append(ImageFile(name, NORMAL, anomalous=False))
            case ["test", folder, _] if is_image(name):
                found.test.append(ImageFile(name, folder, anomalous=True))
            case ["ground_truth", folder, _] if is_image(name):
                _take_mask(name, found, folder=folder, ending=mask_ending)
            case [text] if text.lower() in _TEXTS:
                pass
            case _:
                found.problems.append(stray(name))
    return found


def _take_mask(name: str, found: _Found, *, folder: str, ending: str) -> None:
    if not stem(name).endswith(ending):
        found.problems.append(Problem(name, f"is a mask whose name does not end in '{ending}'"))
        return
    found.masks.append((f"{folder}/{stem(name).removesuffix(ending)}", name))


SPLIT_CSV = "split_csv/1cls.csv"
HEADER = ("object", "split", "label", "image", "mask")
_ANNOTATIONS = "image_anno.csv"


class Row(NamedTuple):
    """One line of the split file; the fields are the columns."""

    object: str
    split: str
    label: str
    image: str
    mask: str


def read_visa(root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
    """List an object of VisA as the official split file says."""
    files, problems = walk(root, category)
    listed, digest = split_rows(root)
    rows = [row for row in listed if row.object == category]
    problems += _row_problems(rows) + _file_problems(rows, files)
    if rows and not any(row.mask for row in rows):
        problems.append(no_masks(category))
    return Listing(
        train=_images(row for row in rows if row.split == "train"),
        test=_images(row for row in rows if row.split == "test"),
        problems=tuple(problems),
        files=files,
        documents={SPLIT_CSV: digest},
    )


def _images(rows: Iterable[Row]) -> tuple[ImageFile, ...]:
    # By name alone: of two rows of one image, one may have no mask.
    return tuple(sorted(map(_image, rows), key=lambda image: image.name))


def _image(row: Row) -> ImageFile:
    anomalous = row.label != "normal"
    kind = row.label if anomalous else NORMAL
    return ImageFile(row.image, kind, anomalous=anomalous, mask=row.mask or None)


def split_rows(root: Path) -> tuple[list[Row], str]:
    """Read the whole split file.

    Returns
    -------
    rows : list of Row
        In the file's order.
    digest : str
        SHA-256 of the bytes that they were read from, hexadecimal.

    Raises
    ------
    DataError
        If it cannot be read, or its header or a row has the wrong form.
    """
    path = root / SPLIT_CSV
    try:
        data = read_regular(path)
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        header, *lines = csv.reader(text, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: the split file cannot be read ({error})") from error
    if tuple(header) != HEADER:
        got = shown(",".join(header))
        raise DataError(f"{path}: its header must be {','.join(HEADER)}, got {got}")
    for number, line in enumerate(lines, start=2):
        rule = _wrong_form(line)
        if rule is not None:
            raise DataError(f"{path}, line {number}: {rule}")
    return [Row(*line) for line in lines], hashlib.sha256(data).hexdigest()


def _wrong_form(line: list[str]) -> str | None:
    if len(line) != len(HEADER):
        return f"must have {len(HEADER)} fields, got {len(line)}"
    if line[1] not in ("train", "test"):
        return f"split must be train or test, got {line[1]!r}"
    if line[2] not in ("normal", "anomaly"):
        return f"label must be normal or anomaly, got {line[2]!r}"
    return None


def _row_problems(rows: list[Row]) -> list[Problem]:
    masks = any(row.mask for row in rows)
    times = Counter(row.image for row in rows)
    problems = [
        Problem(name, f"occurs {count} times in {SPLIT_CSV}")
        for name, count in times.items()
        if count > 1
    ]
    users = Counter(mask for _, mask in {(row.image, row.mask) for row in rows if row.mask})
    for mask, count in users.items():
        if count > 1:
            problems.append(Problem(mask, f"is the mask of {count} images in {SPLIT_CSV}"))
        if mask in times:
            problems.append(Problem(mask, f"is both an image and a mask in {SPLIT_CSV}"))
    for row in rows:
        rule = _broken_rule(row, masks=masks)
        if rule is not None:
            problems.append(Problem(row.image, rule))
    return problems


def _broken_rule(row: Row, *, masks: bool) -> str | None:
    if not row.image.startswith(f"{row.object}/"):
        return f"is listed in {SPLIT_CSV} as an image of '{row.object}'"
    if row.label == "anomaly" and row.split == "train":
        return f"is an anomalous training image in {SPLIT_CSV}"
    if row.label == "normal" and row.mask:
        return f"is normal but has a mask in {SPLIT_CSV}"
    if row.label == "anomaly" and masks and not row.mask:
        return NO_MASK
    if row.mask and stem(row.mask) != stem(row.image):
        return f"has the mask of another image in {SPLIT_CSV}, {shown(row.mask)}"
    return None


def _file_problems(rows: list[Row], files: Files) -> list[Problem]:
    listed = {name for row in rows for name in (row.image, row.mask) if name}
    problems = [
        Problem(name, f"is named in {SPLIT_CSV} but missing{alike(name, files.keys() - listed)}")
        for name in sorted(listed - files.keys())
    ]
    for name in files.keys() - listed:
        if "/Data/Masks/" in name and is_image(name):
            problems.append(Problem(name, f"is a mask without an image in {SPLIT_CSV}"))
        elif not name.endswith(f"/{_ANNOTATIONS}"):
            problems.append(stray(name))
    return problems


class Reader(Protocol):
    """Lists a category of a layout from file names, opening no image."""

    def __call__(self, root: Path, category: str, *, dataset: DatasetConfig) -> Listing:
        """Take the dataset's root, the category and the settings."""


READERS: dict[str, Reader] = {
    "mvtec": read_mvtec,
    "btad": read_btad,
    "visa": read_visa,
    "elpv": read_elpv,
    "folder": read_folder,
}
"""The layouts, by the name that `dataset.reader` takes."""
