"""The image files of a folder."""

from __future__ import annotations

from pathlib import Path

from harness.data.listing import IMAGE_SUFFIXES

HEATMAPS = "heatmaps"
"""The folder of the heatmaps, in the one that the command writes to."""


def image_files(folder: Path, *, without: Path) -> list[Path]:
    """Return the image files of a folder and of the folders in it, sorted by path.

    Parameters
    ----------
    folder : Path
        Where to look.
    without : Path
        What `harness.predict` writes there, from an earlier time, is no image to score: its
        heatmaps.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got '{folder}'")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    written = (without / HEATMAPS).resolve()
    files = [p for p in found if p.is_file() and written not in p.resolve().parents]
    if not files:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"images must be a folder with image files ({kinds}), got '{folder}'")
    return files
