"""From a dataset's settings to a verified split."""

from __future__ import annotations

import difflib
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.config import DatasetConfig
from harness.data.checks import problems_of
from harness.data.digests import InspectionCache
from harness.data.errors import DataError
from harness.data.inspection import Inspection, inspect_document, inspect_image, inspect_mask
from harness.data.listing import ImageFile, Listing, Problem
from harness.data.official import PUBLISHED, differences
from harness.data.protocol import contaminate, few_shot, split_normals
from harness.data.readers import READERS
from harness.data.roots import dataset_root
from harness.data.split import Sample, Split

_SHOWN = 3


@dataclass(frozen=True)
class Survey:
    """Everything that is known of one category on disk.

    Attributes
    ----------
    root : Path
        The dataset's root.
    listing : Listing
        Its images.
    seen : dict of str to Inspection
        The sound files by name.
    problems : tuple of Problem
        Every rule that it breaks.
    """

    root: Path
    listing: Listing
    seen: dict[str, Inspection]
    problems: tuple[Problem, ...]


def load_split(
    dataset: DatasetConfig,
    category: str,
    *,
    seed: int,
    n_train: int | None = None,
    train_contamination: float = 0.0,
) -> Split:
    """Read one category, refusing data that break a rule or differ from the published dataset.

    Parameters
    ----------
    dataset : DatasetConfig
        Where and how.
    category : str
        One of `dataset.categories`.
    seed : int
        Determines every draw, each from its own named stream.
    n_train : int, optional
        Train on a seeded subset of this many normal images; all by default.
    train_contamination : float, default 0
        The share of the training set that is anomalous, moved out of the test set.

    Returns
    -------
    Split
        With `official=False` wherever `dataset.official` is false.

    Raises
    ------
    DataError
        In one line: the first problems, each with its file and rule, and how to list them all.
    """
    found = survey(dataset, category, seed=seed)
    _refuse(found.problems, dataset, category)
    train = few_shot(_samples(found.listing.train, found), category, seed=seed, n_train=n_train)
    train, test = contaminate(
        train,
        _samples(found.listing.test, found),
        category,
        seed=seed,
        share=train_contamination,
    )
    return Split(train, test, fingerprint(found), official=dataset.official)


def survey(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """List and inspect one category, and collect every problem.

    Raises
    ------
    DataError
        If the category cannot be read at all.
    """
    if dataset.reader not in READERS:
        raise DataError(
            f"dataset.reader must be one of {', '.join(READERS)}, got '{dataset.reader}'"
        )
    _check_category(dataset, category)
    root = dataset_root(dataset)
    listing = READERS[dataset.reader](root, category, dataset)
    if not listing.has_split:
        listing = split_normals(listing, category, seed=seed, share=dataset.train_share)
    seen, broken = _inspect(root, listing, category)
    problems = [*listing.problems, *broken, *problems_of(listing, seen, category)]
    published = PUBLISHED.get(dataset.name, {}).get(category)
    if published is None:
        problems.append(Problem(category, "is not a category of a published dataset", fatal=False))
    else:
        problems += differences(published, listing, seen, category)
    return Survey(root, listing, seen, tuple(dict.fromkeys(problems)))


def fingerprint(found: Survey) -> str:
    """Digest the names and contents of a category's images, masks and split file.

    It depends neither on the seed nor on the machine.
    """
    lines = sorted(
        f"{unicodedata.normalize('NFC', name)}\n{inspection.digest}\n"
        for name, inspection in found.seen.items()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_category(dataset: DatasetConfig, category: str) -> None:
    if category in dataset.categories:
        return
    nearest = difflib.get_close_matches(category, dataset.categories, n=1)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    raise DataError(
        f"category must be one of {', '.join(dataset.categories)} "
        f"in {dataset.title}, got '{category}'{hint}"
    )


def _inspect(
    root: Path, listing: Listing, category: str
) -> tuple[dict[str, Inspection], list[Problem]]:
    """Inspect every listed file, reading only those that are new or changed."""
    cache = InspectionCache(root, category)
    wanted = _wanted(root, listing)
    found = {name: cache.find(f"{kind}:{name}", status) for name, (kind, status) in wanted.items()}
    unknown = [name for name, inspection in found.items() if inspection is None]
    if not unknown:
        return {name: seen for name, seen in found.items() if seen is not None}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda name: _look(root, name, wanted[name][0]), unknown)
        looked = dict(zip(unknown, results, strict=True))
    broken = [result for result in looked.values() if isinstance(result, Problem)]
    found.update({n: r for n, r in looked.items() if isinstance(r, Inspection)})
    seen = {name: inspection for name, inspection in found.items() if inspection is not None}
    cache.save(
        {f"{wanted[n][0]}:{n}": (wanted[n][1], inspection) for n, inspection in seen.items()}
    )
    return seen, broken


_LOOKS: dict[str, Callable[[Path], Inspection]] = {
    "image": inspect_image,
    "mask": inspect_mask,
    "text": inspect_document,
}


def _wanted(root: Path, listing: Listing) -> dict[str, tuple[str, os.stat_result]]:
    """Name each file to inspect with its kind and status; missing ones are problems elsewhere."""
    images = (*listing.train, *listing.test)
    kinds = {image.name: "image" for image in images}
    kinds |= {image.mask: "mask" for image in images if image.mask is not None}
    wanted = {name: (kinds[name], listing.files[name]) for name in kinds if name in listing.files}
    return wanted | {name: ("text", (root / name).stat()) for name in listing.documents}


def _look(root: Path, name: str, kind: str) -> Inspection | Problem:
    try:
        return _LOOKS[kind](root / name)
    except DataError as error:
        return Problem(name, str(error))


def _samples(images: Iterable[ImageFile], found: Survey) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            path=found.root / image.name,
            name=image.name,
            defect_type=image.defect_type,
            mask_path=None if image.mask is None else found.root / image.mask,
            digest=found.seen[image.name].digest,
            size=(found.seen[image.name].height, found.seen[image.name].width),
        )
        for image in images
    )


def _refuse(problems: Iterable[Problem], dataset: DatasetConfig, category: str) -> None:
    """Raise if a problem is fatal, or if any remains and the data must be official."""
    problems = list(problems)
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise DataError(_message(fatal, dataset, category, "is broken"))
    if problems and dataset.official:
        what = "differs from the published dataset (dataset.official=false runs it as unofficial)"
        raise DataError(_message(problems, dataset, category, what))


def _message(problems: list[Problem], dataset: DatasetConfig, category: str, what: str) -> str:
    shown = "; ".join(map(str, problems[:_SHOWN]))
    more = ""
    if len(problems) > _SHOWN:
        command = f"python -m harness.data verify dataset={dataset.name} category={category}"
        more = f"; and {len(problems) - _SHOWN} more, listed by `{command}`"
    return f"{dataset.name}/{category} {what}: {shown}{more}"
