"""The image files of a folder."""

from __future__ import annotations

from pathlib import Path

from harness.data.listing import IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder and of the folders in it, sorted by path.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got '{folder}'")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = [path for path in found if path.is_file()]
    if not files:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"images must be a folder with image files ({kinds}), got '{folder}'")
    return files
