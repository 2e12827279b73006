"""A user's own dataset: a folder of normal images, one of abnormal images, perhaps one of masks.

    <category>/normal/**.png
    <category>/abnormal/**.png, or abnormal/<defect type>/**.png
    <category>/masks/**.png, below it as in `abnormal`, with or without the ending `_mask`

Where the root itself holds the normal images, it is the folder of the only category.
"""

from __future__ import annotations

from os import listdir
from pathlib import Path, PurePosixPath

from harness.config import DatasetConfig
from harness.data.errors import DataError
from harness.data.listing import ImageFile, Listing, is_image, pair_masks, stem, stray, walk
from harness.data.split import NORMAL
from harness.show import alike


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
