"""Everything that is known of one category on disk, and every rule that it breaks."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.config import DatasetConfig
from harness.data.checks import problems_of
from harness.data.digests import InspectionCache
from harness.data.errors import DataError
from harness.data.inspection import Inspection, inspect_image, inspect_mask, read_stamped
from harness.data.listing import Listing, Problem
from harness.data.manifest import changed_files
from harness.data.official import PUBLISHED, differences
from harness.data.protocol import split_normals
from harness.data.readers import READERS
from harness.data.roots import dataset_root
from harness.threads import available

_INSPECT: dict[str, Callable[[bytes], Inspection]] = {"image": inspect_image, "mask": inspect_mask}


@dataclass(frozen=True)
class Survey:
    """What was found of one category.

    Attributes
    ----------
    root : Path
        The dataset's root.
    listing : Listing
        The category's images.
    seen : dict of str to Inspection
        The sound files, by name, label files included.
    problems : tuple of Problem
        Every rule that the category breaks.
    """

    root: Path
    listing: Listing
    seen: dict[str, Inspection]
    problems: tuple[Problem, ...]


class _Wanted(NamedTuple):
    """A file to inspect."""

    name: str
    kind: str
    stamp: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}"


def survey(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """List and inspect one category, and collect every problem.

    Parameters
    ----------
    dataset : DatasetConfig
        Where and how.
    category : str
        One of `dataset.categories`.
    seed : int
        Determines the split where the layout has none of its own.

    Raises
    ------
    DataError
        If a setting is wrong, or the category cannot be listed at all.
    """
    check_settings(dataset, category)
    root = dataset_root(dataset)
    listing = READERS[dataset.reader](root, category, dataset=dataset)
    if not listing.has_split:
        listing = split_normals(listing, category, seed=seed, share=dataset.train_share)
    seen, broken = _inspect_all(root, listing, category=category)
    # Not read again: other bytes than those parsed could be there by now.
    seen |= {name: Inspection(digest, 0, 0, -1) for name, digest in listing.documents.items()}
    problems = [*listing.problems, *broken, *problems_of(listing, seen, category=category)]
    problems += changed_files(root, category, seen=seen)
    published = PUBLISHED.get(dataset.name, {}).get(category)
    if published is None:
        problems.append(Problem(category, "is not a category of a published dataset", fatal=False))
    else:
        problems += differences(published, listing, seen=seen, category=category)
    return Survey(root, listing, seen, tuple(problems))


def check_settings(dataset: DatasetConfig, category: str) -> None:
    """Raise `DataError` if the reader is unknown, or the dataset has no such category."""
    if dataset.reader not in READERS:
        rule = f"dataset.reader must be one of {', '.join(READERS)}"
        raise DataError(f"{rule}, got '{dataset.reader}'")
    if category not in dataset.categories:
        nearest = difflib.get_close_matches(category, dataset.categories, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        rule = f"category must be one of {', '.join(dataset.categories)} for {dataset.title}"
        raise DataError(f"{rule}, got '{category}'{hint}")


def _inspect_all(
    root: Path, listing: Listing, *, category: str
) -> tuple[dict[str, Inspection], list[Problem]]:
    """Inspect every listed file, reading only those that are new or changed."""
    cache = InspectionCache(root, category)
    wanted = _wanted(listing)
    seen = {file.name: found for file in wanted if (found := cache.find(file.key, file.stamp))}
    unknown = [file for file in wanted if file.name not in seen]
    if not unknown:
        return seen, []
    with ThreadPoolExecutor(available()) as pool:
        results = list(pool.map(lambda file: _inspect(root, file), unknown))
    stamps = {file.name: file.stamp for file in wanted}
    for file, result in zip(unknown, results, strict=True):
        if not isinstance(result, Problem):
            stamps[file.name], seen[file.name] = result
    cache.save({f.key: (stamps[f.name], seen[f.name]) for f in wanted if f.name in seen})
    return seen, [result for result in results if isinstance(result, Problem)]


def _wanted(listing: Listing) -> list[_Wanted]:
    """Name the files to inspect; those that are missing are the reader's problems."""
    images = (*listing.train, *listing.test)
    kinds = {image.name: "image" for image in images}
    kinds |= {image.mask: "mask" for image in images if image.mask is not None}
    files = listing.files
    return [_Wanted(name, kind, files[name]) for name, kind in kinds.items() if name in files]


def _inspect(root: Path, file: _Wanted) -> tuple[str, Inspection] | Problem:
    """Read a file once; return its stamp as it was read, and what was seen."""
    try:
        stamp, data = read_stamped(root / file.name)
        return stamp, _INSPECT[file.kind](data)
    except DataError as error:
        return Problem(file.name, str(error))
