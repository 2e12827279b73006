"""From a dataset's settings to a verified split: list, inspect, check, and refuse or load."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from harness.config import DatasetConfig, conf_dir
from harness.data.images import read_image
from harness.data.inspection import (
    Inspection,
    InspectionCache,
    fingerprint,
    inspect_image,
    inspect_mask,
    read_stamped,
)
from harness.data.listing import DataError, ImageFile, Listing, Problem
from harness.data.official import PUBLISHED, changed_files, differences
from harness.data.readers import READERS, dataset_root
from harness.data.split import Sample, Split, contaminate, few_shot, split_normals
from harness.system.terminal import alike, shown
from harness.system.threads import available

_NEEDED = ("name", "title", "reader", "categories")
_SHOWN = 3


@dataclass(frozen=True)
class Survey:
    """A category's images, the inspections of its sound files by name, and every problem.

    Without problems the category equals the published one.
    """

    category: str
    root: Path
    listing: Listing
    seen: dict[str, Inspection]
    problems: tuple[Problem, ...]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Numbers of training, normal test and anomalous test images, and of masks."""
        test = self.listing.test
        anomalous = sum(image.anomalous for image in test)
        masks = sum(image.mask is not None for image in test)
        return len(self.listing.train), len(test) - anomalous, anomalous, masks

    @property
    def fingerprint(self) -> str:
        """As `Split.fingerprint`; empty if no file is sound."""
        return fingerprint(self.seen) if self.seen else ""

    @property
    def broken(self) -> bool:
        """Whether no run is possible, not even an unofficial one."""
        return any(problem.fatal for problem in self.problems)


def dataset_settings(name: str, *, root: str | None = None) -> DatasetConfig:
    """Read the settings of a dataset: a file of `conf/dataset` by its name, or one by its path.

    `root` is where the dataset lies, if not in its usual place.
    """
    path = _settings_file(name)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = [field.name for field in fields(DatasetConfig)]
    if unknown := [key for key in settings if key not in keys]:
        raise DataError(f"{path}: '{unknown[0]}' is not one of {', '.join(keys)}")
    if missing := [key for key in _NEEDED if key not in settings]:
        raise DataError(f"{path}: '{missing[0]}' is missing")
    dataset = DatasetConfig(**settings)
    return dataset if root is None else replace(dataset, root=root)


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
    _refuse(found.problems, dataset, category=category)
    train = few_shot(_samples(found.listing.train, found), category, seed=seed, n_train=n_train)
    test = _samples(found.listing.test, found)
    train, test = contaminate(train, test, category=category, seed=seed, share=train_contamination)
    return Split(train, test, found.fingerprint, official=dataset.official)


def verify(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """Check one category, decoding every image.

    Beyond the checks of `load_split`, this finds images whose pixels cannot be decoded though the
    file looks whole, and images with the same pixels though the files differ. Only a wrong setting
    or a missing root raises `DataError`.
    """
    _check_settings(dataset, category)
    root = dataset_root(dataset)
    try:
        found = survey(dataset, category, seed=seed)
    except DataError as error:
        nothing = Listing((), (), (), {})
        return Survey(category, root, nothing, {}, (Problem(category, str(error)),))
    return replace(found, problems=(*found.problems, *_pixel_problems(found)))


def survey(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """List and inspect one category, and collect every problem that its files have."""
    _check_settings(dataset, category)
    root = dataset_root(dataset)
    listing = READERS[dataset.reader](root, category, dataset)
    if not listing.has_split:
        listing = split_normals(listing, category, seed=seed, share=dataset.train_share)
    seen, broken = _inspect_all(root, listing, category=category)
    # Not read again: other bytes than those parsed could be there by now.
    seen |= {name: Inspection(digest, 0, 0, -1) for name, digest in listing.documents.items()}
    problems = [*listing.problems, *broken, *_problems(listing, seen, category=category)]
    problems += changed_files(root, category, seen=seen)
    published = PUBLISHED.get(dataset.name, {}).get(category)
    if published is None:
        problems.append(Problem(category, "is not a category of a published dataset", fatal=False))
    else:
        problems += differences(published, listing, seen=seen, category=category)
    return Survey(category, root, listing, seen, tuple(problems))


def _settings_file(name: str) -> Path:
    if name.endswith(".yaml") and Path(name).is_file():
        return Path(name)
    folder = conf_dir() / "dataset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        choices = f"{', '.join(known)}, or the path of a .yaml file"
        raise DataError(f"dataset must be one of {choices}, got '{name}'{alike(name, known)}")
    return folder / f"{name}.yaml"


def _check_settings(dataset: DatasetConfig, category: str) -> None:
    if dataset.reader not in READERS:
        rule = f"dataset.reader must be one of {', '.join(READERS)}"
        raise DataError(f"{rule}, got '{dataset.reader}'")
    if category not in dataset.categories:
        nearest = difflib.get_close_matches(category, dataset.categories, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        rule = f"category must be one of {', '.join(dataset.categories)} for {dataset.title}"
        raise DataError(f"{rule}, got '{category}'{alike(category, dataset.categories)}{hint}")


def _refuse(problems: Sequence[Problem], dataset: DatasetConfig, *, category: str) -> None:
    """Raise if a problem is fatal, or if any remains and the data must be official."""
    fatal = [problem for problem in problems if problem.fatal]
    if not fatal and not (problems and dataset.official):
        return
    rule = "differs from the published dataset (dataset.official=false runs it as unofficial)"
    first, more = (fatal or problems)[:_SHOWN], (fatal or problems)[_SHOWN:]
    text = (
        f"{dataset.name}/{category} {'is broken' if fatal else rule}: {'; '.join(map(str, first))}"
    )
    if more:
        command = f"python -m harness.data verify dataset={dataset.name} category={category}"
        text += f"; and {len(more)} more, listed by `{command}`"
    raise DataError(text)


def _samples(images: Iterable[ImageFile], found: Survey) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            root=found.root,
            name=image.name,
            defect_type=image.defect_type,
            anomalous=image.anomalous,
            mask_name=image.mask,
            digest=found.seen[image.name].digest,
            mask_digest=None if image.mask is None else found.seen[image.mask].digest,
            size=(found.seen[image.name].height, found.seen[image.name].width),
        )
        for image in images
    )


def _inspect_all(
    root: Path, listing: Listing, *, category: str
) -> tuple[dict[str, Inspection], list[Problem]]:
    """Inspect every listed file that is there, reading only those that are new or changed."""
    cache = InspectionCache(root, category)
    images = (*listing.train, *listing.test)
    kinds = {image.name: "image" for image in images}
    kinds |= {image.mask: "mask" for image in images if image.mask is not None}
    keys = {name: f"{kind}:{name}" for name, kind in kinds.items() if name in listing.files}
    found: dict[str, tuple[str, Inspection]] = {}
    for name, key in keys.items():
        if inspection := cache.find(key, listing.files[name]):
            found[name] = listing.files[name], inspection
    changed = [name for name in keys if name not in found]
    problems = []
    if changed:
        with ThreadPoolExecutor(available()) as pool:
            results = list(pool.map(lambda name: _inspect(root, name, kinds[name]), changed))
        for name, result in zip(changed, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                found[name] = result
        cache.save({key: found[name] for name, key in keys.items() if name in found})
    return {name: inspection for name, (_, inspection) in found.items()}, problems


def _inspect(root: Path, name: str, kind: str) -> tuple[str, Inspection] | Problem:
    """Read a file once; return its stamp as it was read, and what was seen."""
    try:
        stamp, data = read_stamped(root / name)
        return stamp, inspect_mask(data) if kind == "mask" else inspect_image(data)
    except DataError as error:
        return Problem(name, str(error))


def _problems(
    listing: Listing, seen: Mapping[str, Inspection], *, category: str
) -> Iterator[Problem]:
    """Check a category's images and masks against each other; broken files are not in `seen`."""
    anomalous = sum(image.anomalous for image in listing.test)
    if not listing.train:
        yield Problem(category, "has no training images")
    if anomalous == len(listing.test) and (anomalous or listing.has_split):
        yield Problem(category, "has no normal test images")
    if not anomalous:  # a model can be fitted; in a layout with a test set, something is missing
        yield Problem(category, "has no anomalous test images", fatal=listing.has_split)
    yield from _names_alike(seen)
    for image, other, of_train in _copies(listing, {name: seen[name].digest for name in seen}):
        rule = f"is a test image identical to the training image {shown(other)}"
        if not of_train:
            rule = f"is an anomalous image identical to the normal image {shown(other)}"
        yield Problem(image.name, rule)
    for image in listing.test:
        if image.mask is not None and {image.mask, image.name} <= seen.keys():
            yield from _mask_problems(seen[image.name], image.mask, seen[image.mask])


def _names_alike(names: Iterable[str]) -> Iterator[Problem]:
    """Find files that the fingerprint, which knows composed names alone, could not tell apart."""
    composed: dict[str, str] = {}
    for name in names:
        other = composed.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            rule = f"has the same name as {other!a} in Unicode's composed form (NFC)"
            yield Problem(name, rule)


def _copies(listing: Listing, digests: Mapping[str, str]) -> Iterator[tuple[ImageFile, str, bool]]:
    """Yield (test image, other image, whether that one trains) for what must not be equal."""
    train = {digests[i.name]: i.name for i in listing.train if i.name in digests}
    test = [image for image in listing.test if image.name in digests]
    normal = {digests[image.name]: image.name for image in test if not image.anomalous}
    for image in test:
        digest = digests[image.name]
        if digest in train:
            yield image, train[digest], True
        if image.anomalous and digest in normal:
            yield image, normal[digest], False


def _mask_problems(image: Inspection, name: str, mask: Inspection) -> Iterator[Problem]:
    if (image.width, image.height) != (mask.width, mask.height):
        sizes = f"is {mask.width}x{mask.height}, its image {image.width}x{image.height}"
        yield Problem(name, sizes)
    if mask.defect_pixels == 0:
        yield Problem(name, "is an empty mask: no pixel is above 0")


def _pixel_problems(found: Survey) -> Iterator[Problem]:
    """Decode every image, and find those of the same pixels in files that differ."""
    images = (*found.listing.train, *found.listing.test)
    names = [image.name for image in images if image.name in found.seen]
    with ThreadPoolExecutor(available()) as pool:
        results = list(pool.map(lambda name: _pixel_digest(found, name), names))
    yield from (result for result in results if isinstance(result, Problem))
    digests = {n: r for n, r in zip(names, results, strict=True) if isinstance(r, str)}
    for image, other, of_train in _copies(found.listing, digests):
        if found.seen[image.name].digest != found.seen[other].digest:
            rule = f"has the same pixels as the training image {shown(other)}"
            if not of_train:
                rule = f"is an anomalous image with the pixels of the normal image {shown(other)}"
            yield Problem(image.name, rule)


def _pixel_digest(found: Survey, name: str) -> str | Problem:
    try:
        pixels = read_image(found.root / name, found.seen[name].digest)
    except DataError as error:
        return Problem(name, str(error))
    return hashlib.sha256(pixels.data).hexdigest()
