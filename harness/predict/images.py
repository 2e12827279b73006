"""The image files of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.data.listing import IMAGE_SUFFIXES

HEATMAPS = "heatmaps"
"""The folder of the heatmaps, in the one that the command writes to."""
# What file servers and archivers put beside images, in lower case.
_JUNK = frozenset({"@eadir", "__macosx"})


def image_files(folder: Path, *, without: Path) -> dict[Path, str | None]:
    """List the image files of a folder and of the folders in it.

    Links are followed. Whatever has an image's name is listed, be it a pipe or a dangling link:
    who reads it tells. Hidden files and folders are left out.

    Parameters
    ----------
    folder : Path
        Where to look.
    without : Path
        What `harness.predict` writes there, from an earlier time, is no image to score: its
        heatmaps.

    Returns
    -------
    dict of Path to str or None
        Sorted by path: None for an image file, and for a folder that cannot be listed, why not.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got '{folder}'")
    written = os.path.realpath(without / HEATMAPS)
    found = dict(sorted(_listed(folder, written, within=())))
    if folder in found:
        raise ValueError(f"images must be a folder that can be listed, got '{folder}'")
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"images must be a folder with image files ({kinds}), got '{folder}'")
    return found


def _listed(
    folder: Path, written: str, *, within: tuple[str, ...]
) -> Iterator[tuple[Path, str | None]]:
    place = os.path.realpath(folder)
    if place == written:
        return
    if place in within:
        yield folder, "cannot be listed (it is a link to a folder that it lies in)"
        return
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name.lower() in _JUNK:
            continue
        if entry.is_dir(follow_symlinks=False) or os.path.isdir(path):
            yield from _listed(path, written, within=(*within, place))
        elif _counts(path, written):
            yield path, None


def _counts(path: Path, written: str) -> bool:
    # A link to a heatmap is none either.
    return path.suffix.lower() in IMAGE_SUFFIXES and Path(written) not in (
        Path(os.path.realpath(path)).parents
    )
