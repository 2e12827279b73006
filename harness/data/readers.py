"""The layouts: where a dataset lies, and from its file names to images, labels and masks."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from harness.config import DatasetConfig
from harness.data.listing import (
    NO_MASK,
    AbsentError,
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
from harness.data.official import ARCHIVES
from harness.data.split import NORMAL
from harness.system.files import DamagedError, read_regular
from harness.system.locks import warn_once
from harness.system.terminal import alike

ROOT_VARIABLE = "DFKDE_DATA"
"""The environment variable of the folder that holds one folder per dataset."""

SPLIT_CSV = "split_csv/1cls.csv"
HEADER = ("object", "split", "label", "image", "mask")
LABELS = "labels.csv"

_ANNOTATIONS = "image_anno.csv"
_ANNOTATION = ("image", "label", "mask")
_NO_DEFECT = "normal"
_TEXTS = frozenset({"license.txt", "readme.txt", "defects_config.json"})


class Row(NamedTuple):
    """One line of VisA's split file; the fields are the columns."""

    object: str
    split: str
    label: str
    image: str
    mask: str


def dataset_root(dataset: DatasetConfig) -> Path:
    """Return the folder that holds a dataset's categories, which must exist.

    It is that of `expected_root` or, for ELPV, the one inside the installed package.
    """
    root = expected_root(dataset)
    if root.is_dir():
        return root
    if dataset.root is None and dataset.reader == "elpv":
        package = importlib.util.find_spec("elpv_dataset")
        if package is not None and package.origin is not None:
            return Path(package.origin).parent / "data"
    raise AbsentError(
        f"{dataset.title} is not at '{root}': set dataset.root=PATH, or put it in "
        f"${ROOT_VARIABLE}/{dataset.name} or data/{dataset.name}; {_how_to_fetch(dataset)}"
    )


def expected_root(dataset: DatasetConfig) -> Path:
    """Return `dataset.root`, else `$DFKDE_DATA/<name>`, else `data/<name>`: there or not."""
    if dataset.root is not None:
        return _expanded(dataset.root, setting="dataset.root")
    return _expanded(os.environ.get(ROOT_VARIABLE) or "data", setting=ROOT_VARIABLE) / dataset.name


def _expanded(path: str, *, setting: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{setting}='{path}' is in a home directory that is not known") from error


def _how_to_fetch(dataset: DatasetConfig) -> str:
    if dataset.reader == "elpv":
        return "`pip install elpv-dataset` fetches it"
    if dataset.reader in ("folder", "tree"):
        return "it holds the folders of your own images"
    if dataset.name not in ARCHIVES:
        return f"`python -m harness.data fetch` fetches only {', '.join(ARCHIVES)}"
    return f"`python -m harness.data fetch dataset={dataset.name}` fetches it"


def _read_tree(
    root: Path,
    category: str,
    dataset: DatasetConfig,
    without: frozenset[str],
    *,
    normal: str = NORMAL,
    mask_ending: str | None = None,
    unused: Mapping[str, str] = MappingProxyType({}),
) -> Listing:
    """List a category with folders `train`, `test` and `ground_truth`, as MVTec AD and BTAD have.

    Their masks have one ending. Without one it is own images, which may be right in the root, and
    their masks are named as in the layout `folder`. What is in the folders `unused` is counted by
    what it is.
    """
    own = mask_ending is None and not (root / category).is_dir() and (root / "train").is_dir()
    folder, ending = "" if own else category, mask_ending or ""
    files, problems = walk(root, folder, without)
    train, test, masks = [], [], []
    skipped = Counter[str]()
    for name in files:
        match name.removeprefix(f"{folder}/").split("/"):
            case [part, _, *_] if part in unused:
                skipped[unused[part]] += 1
            case ["train", kind, _] if kind == normal and is_image(name):
                train.append(ImageFile(name, NORMAL, anomalous=False))
            case ["test", kind, _] if is_image(name):
                anomalous = kind != normal
                test.append(ImageFile(name, kind if anomalous else NORMAL, anomalous))
            case ["ground_truth", _, _] if is_image(name) and not stem(name).endswith(ending):
                problems.append(Problem(name, f"is a mask whose name does not end in '{ending}'"))
            case ["ground_truth", kind, _] if is_image(name):
                masks.append((f"{kind}/{stem(name)}", name))
            case [text] if text.lower() in _TEXTS:
                pass
            case _:
                problems.append(stray(name))
    for problem in [one for one in problems if _part(one.file, folder) in unused]:
        problems.remove(problem)
        skipped[unused[_part(problem.file, folder)]] += 1
    ending = dataset.mask_ending if mask_ending is None else mask_ending
    paired, unpaired = pair_masks(test, masks, ending=ending, category=category)
    found = (*problems, *unpaired)
    return Listing(tuple(train), tuple(paired), found, files, skipped=skipped)


def _part(name: str, folder: str) -> str:
    return name.removeprefix(f"{folder}/").partition("/")[0]


def _read_elpv(
    root: Path, category: str, dataset: DatasetConfig, without: frozenset[str]
) -> Listing:
    """List the cells of one type, `mono` or `poly`, that are surely normal or defective."""
    files, problems = walk(root, "images", without)
    labels, digest = _labels(root)
    problems += [stray(name) for name in files if name not in labels]
    cells, skipped = [], Counter[str]()
    for name, (probability, cell_type) in labels.items():
        if cell_type != category or name in without:
            continue
        if probability not in (0.0, 1.0):
            skipped["cells of a probability between 0 and 1"] += 1
            continue
        if name not in files:
            problems.append(Problem(name, f"is named in {LABELS} but missing"))
        defective = probability == 1.0
        cells.append(ImageFile(name, "defective" if defective else NORMAL, anomalous=defective))
    documents = {LABELS: digest}
    images, found = tuple(sorted(cells)), tuple(problems)
    return Listing((), images, found, files, documents, has_split=False, skipped=skipped)


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


def _read_folder(
    root: Path, category: str, dataset: DatasetConfig, without: frozenset[str]
) -> Listing:
    """List the user's images; the split comes from the seed."""
    normal, abnormal, mask = dataset.folders
    folder = _folder(root, category, normal_dir=normal)
    files, problems = walk(root, folder, without)
    images: list[ImageFile] = []
    masks: list[tuple[str, str]] = []
    # The deepest first: one of them may be inside another.
    tops = sorted({normal, abnormal, mask}, key=lambda top: -len(top))
    for name in files:
        place = name.removeprefix(f"{folder}/")
        top = next((top for top in tops if place.startswith(f"{top}/")), None)
        below = place.removeprefix(f"{top}/")
        if top is None or not is_image(name):
            problems.append(stray(name))
        elif top == mask:
            masks.append((f"{_defect_type(below)}/{stem(name)}", name))
        elif top == normal:
            images.append(ImageFile(name, NORMAL, anomalous=False))
        else:
            images.append(ImageFile(name, _defect_type(below), anomalous=True))
    paired, unpaired = pair_masks(images, masks, ending=dataset.mask_ending, category=category)
    return Listing((), tuple(paired), (*problems, *unpaired), files, has_split=False)


def _folder(root: Path, category: str, *, normal_dir: str) -> str:
    """Return the category's folder below the root; empty where the root itself is."""
    for folder in (category, ""):
        if (root / folder / normal_dir).is_dir():
            return folder
    where = f"neither '{root / category}' nor '{root}'"
    places = [place for place in (root / category, root) if place.is_dir()]
    names = [name for place in places for name in os.listdir(place)]
    hint = alike(normal_dir, names) or alike(category, names)
    raise AbsentError(
        f"{where} holds a folder '{normal_dir}' of normal images (dataset.normal_dir){hint}"
    )


def _defect_type(below: str) -> str:
    """Return the folder below the abnormal images, or `abnormal` for a file right inside."""
    folder = PurePosixPath(below).parent
    return "abnormal" if folder == PurePosixPath() else str(folder)


def _read_visa(
    root: Path, category: str, dataset: DatasetConfig, without: frozenset[str]
) -> Listing:
    """List an object of VisA as the official split file says."""
    files, problems = walk(root, category, without)
    listed, digest = split_rows(root)
    rows = [r for r in listed if r.object == category and without.isdisjoint((r.image, r.mask))]
    types = _defect_types(root / category / _ANNOTATIONS)
    problems += _row_problems(rows) + _file_problems(rows, files)
    if rows and not any(row.mask for row in rows):
        problems.append(no_masks(category))
    return Listing(
        train=_images((row for row in rows if row.split == "train"), types),
        test=_images((row for row in rows if row.split == "test"), types),
        problems=tuple(problems),
        files=files,
        documents={SPLIT_CSV: digest},
    )


def split_rows(root: Path) -> tuple[list[Row], str]:
    """Read VisA's whole split file, with the SHA-256 of the bytes that were parsed."""
    path = root / SPLIT_CSV
    lines, digest = _read_csv(path, HEADER, title="split file")
    rows = [Row(*line) for line in lines]
    for number, row in enumerate(rows, start=2):
        for name, choices in (("split", ("train", "test")), ("label", (_NO_DEFECT, "anomaly"))):
            if (value := getattr(row, name)) not in choices:
                rule = f"{name} must be {' or '.join(choices)}, got {value!r}"
                raise DataError(f"{path}, line {number}: {rule}")
    return rows, digest


def _defect_types(path: Path) -> dict[str, str]:
    """Return the defect types of VisA's images by name, where its annotations can be read.

    They change no number of a run, and a file that cannot be read costs them alone.
    """
    if not path.is_file():
        return {}
    types: dict[str, str] = {}
    try:
        lines, _ = _read_csv(path, _ANNOTATION, title="file of annotations")
        for number, (image, label, _) in enumerate(lines, start=2):
            kinds = {kind.strip() for kind in label.split(",")}
            if "" in kinds or kinds > {_NO_DEFECT}:
                rule = f"label must be {_NO_DEFECT} or defect types separated by commas"
                raise DataError(f"{path}, line {number}: {rule}, got {label!r}")
            if image in types:
                raise DataError(f"{path}, line {number}: {shown(image)} occurs twice")
            types[image] = "+".join(sorted(kinds))
    except DataError as error:
        warn_once(f"{error}; images keep the defect type 'anomaly'", about=str(path))
        return {}
    return {image: kind for image, kind in types.items() if kind != _NO_DEFECT}


def _read_csv(path: Path, header: tuple[str, ...], *, title: str) -> tuple[list[list[str]], str]:
    """Read the lines below a header, with the SHA-256 of the bytes that were parsed."""
    try:
        data = read_regular(path)
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        first, *lines = csv.reader(text, strict=True)
        while lines and not lines[-1]:  # blank lines at the end
            lines.pop()
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: the {title} cannot be read ({error})") from error
    if tuple(first) != header:
        got = shown(",".join(first))
        raise DataError(f"{path}: its header must be {','.join(header)}, got {got}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            rule = f"must have {len(header)} fields, got {len(line)}"
            raise DataError(f"{path}, line {number}: {rule}")
    return lines, hashlib.sha256(data).hexdigest()


def _images(rows: Iterable[Row], types: Mapping[str, str]) -> tuple[ImageFile, ...]:
    images = []
    for row in rows:
        anomalous = row.label != _NO_DEFECT
        kind = types.get(row.image, row.label) if anomalous else NORMAL
        images.append(ImageFile(row.image, kind, anomalous, row.mask or None))
    # By name alone: of two rows of one image, one may have no mask.
    return tuple(sorted(images, key=lambda image: image.name))


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


READERS: dict[str, Callable[[Path, str, DatasetConfig, frozenset[str]], Listing]] = {
    "mvtec": partial(_read_tree, normal="good", mask_ending="_mask"),
    "btad": partial(_read_tree, normal="ok", mask_ending=""),
    "visa": _read_visa,
    "elpv": _read_elpv,
    "loco": partial(
        _read_tree,
        normal="good",
        mask_ending="",
        # Its masks are several of an image.
        unused={"validation": "validation images", "ground_truth": "ground truth masks"},
    ),
    "tree": _read_tree,
    "folder": _read_folder,
}
"""The layouts, by the name that `dataset.reader` takes.

Each lists a category from file names, opening no image: of the dataset's root, the category and the
settings. The names of the last argument are left out, as if these files and rows did not exist.
"""
