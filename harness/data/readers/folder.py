"""A user's own dataset: a folder of normal images, one of abnormal images, perhaps one of masks.

    <category>/normal/**.png
    <category>/abnormal/**.png, or abnormal/<defect type>/**.png
    <category>/masks/**.png, below it as in `abnormal`, with or without the ending `_mask`

Where the root itself holds the normal images, it is the folder of the only category.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.listing import ImageFile, Listing, is_image, pair_masks, stem, stray, walk
from harness.data.split import NORMAL


def read_folder(root: Path, category: str, dataset: DatasetConfig) -> Listing:
    """List the user's images; the split comes from the seed."""
    base = "" if (root / dataset.normal_dir).is_dir() else f"{category}/"
    if not (root / base / dataset.normal_dir).is_dir():
        raise DataError(
            f"{root / base}: holds no folder '{dataset.normal_dir}' (dataset.normal_dir)"
        )
    files, problems = walk(root, base.removesuffix("/"))
    images: list[ImageFile] = []
    masks: list[tuple[str, str]] = []
    for name in files:
        top, _, below = name.removeprefix(base).partition("/")
        if not is_image(name):
            problems.append(stray(name))
        elif top == dataset.normal_dir:
            images.append(ImageFile(name, NORMAL))
        elif top == dataset.abnormal_dir:
            images.append(ImageFile(name, _defect_type(below)))
        elif top == dataset.mask_dir:
            key = f"{_defect_type(below)}/{stem(name).removesuffix('_mask')}"
            masks.append((key, name))
        else:
            problems.append(stray(name))
    paired, unpaired = pair_masks(images, masks, category)
    return Listing(
        train=(),
        test=tuple(paired),
        problems=(*problems, *unpaired),
        files=files,
        has_split=False,
    )


def _defect_type(below: str) -> str:
    """Return the folder below the abnormal images, or `abnormal` for a file right inside."""
    folder = PurePosixPath(below).parent
    return "abnormal" if folder == PurePosixPath() else str(folder)
