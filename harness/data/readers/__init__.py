"""The layouts on disk, by name: from file names to images, labels and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.config import DatasetConfig
from harness.data.listing import Listing
from harness.data.readers.elpv import read_elpv
from harness.data.readers.folder import read_folder
from harness.data.readers.tree import read_btad, read_mvtec
from harness.data.readers.visa import read_visa


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
