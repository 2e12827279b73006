"""VisA: the official one-class split `split_csv/1cls.csv` over the original `Data/` tree.

<object>/Data/Images/Normal/0000.JPG    <object>/Data/Images/Anomaly/000.JPG
<object>/Data/Masks/Anomaly/000.png     (small integers; anything above 0 is a defect)
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harness.atomic import read_regular
from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.listing import (
    NO_MASK,
    Files,
    ImageFile,
    Listing,
    Problem,
    is_image,
    no_masks,
    shown,
    stem,
    stray,
    walk,
)
from harness.data.split import NORMAL
from harness.show import alike

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
