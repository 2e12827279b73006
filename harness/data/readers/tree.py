"""Layouts whose folders are the labels: MVTec AD and BTAD.

<category>/train/<normal>/000.png
<category>/test/<normal or defect type>/000.png
<category>/ground_truth/<defect type>/000<mask ending>.png
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.config import DatasetConfig
from harness.data.listing import (
    Files,
    ImageFile,
    Listing,
    Problem,
    is_image,
    pair_masks,
    stem,
    stray,
    walk,
)
from harness.data.split import NORMAL

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
