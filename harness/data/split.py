"""What a reader returns: the samples of one category, in training and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NORMAL = "good"
"""What is shown as the defect type of a normal image, whatever the dataset's own word for it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file.

    Attributes
    ----------
    root : Path
        The dataset's root.
    name : str
        The image file's path relative to it, with forward slashes: its identity in records.
    defect_type : str
        `good` for a normal image, else the dataset's name of the defect, which may be `good` too.
    anomalous : bool
        The image-level ground truth, as the layout has it.
    mask_name : str, optional
        The ground truth mask's path relative to the root; None for a normal image or where the
        dataset has none.
    digest : str
        SHA-256 of the image file's bytes, hexadecimal; whoever decodes them checks it.
    mask_digest : str, optional
        The same of the ground truth mask's file; None without one.
    size : tuple of int
        Height and width of the upright image, in pixels.
    """

    root: Path
    name: str
    defect_type: str
    anomalous: bool
    mask_name: str | None
    digest: str
    mask_digest: str | None
    size: tuple[int, int]

    # Made when asked for: held, the paths of many images would weigh more than all else here.
    @property
    def path(self) -> Path:
        """The image file."""
        return self.root / self.name

    @property
    def mask_path(self) -> Path | None:
        """The ground truth mask's file, where there is one."""
        return None if self.mask_name is None else self.root / self.mask_name


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
