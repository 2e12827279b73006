"""What a reader returns: the samples of one category, in training and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NORMAL = "good"
"""The defect type of a normal image, whatever the dataset's own word for it."""


@dataclass(frozen=True)
class Sample:
    """One image file.

    Attributes
    ----------
    path : Path
        The image file.
    name : str
        Its path relative to the dataset's root, with forward slashes: its identity in records.
    defect_type : str
        `good` for a normal image, else the dataset's name of the defect.
    mask_path : Path, optional
        The ground truth mask's file; None for a normal image or where the dataset has none.
    digest : str
        SHA-256 of the image file's bytes, hexadecimal.
    size : tuple of int
        Height and width of the upright image, in pixels.
    """

    path: Path
    name: str
    defect_type: str
    mask_path: Path | None
    digest: str
    size: tuple[int, int]

    @property
    def anomalous(self) -> bool:
        """The image-level ground truth."""
        return self.defect_type != NORMAL


@dataclass(frozen=True)
class Split:
    """One category, ready to be evaluated.

    Attributes
    ----------
    train, test : tuple of Sample
        Sorted by name. Training samples are normal (unless contaminated on purpose).
    fingerprint : str
        Digest over the relative paths and contents of the category's images and masks.
    official : bool
        Whether the category equals the published dataset.
    """

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    fingerprint: str
    official: bool
