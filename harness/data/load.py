"""From a dataset's settings to a verified split: list, inspect, check, and refuse or load."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import yaml

from harness.config import DatasetConfig, conf_dir
from harness.data.images import MOST_PIXELS, USUAL, Decoding, read_stamped
from harness.data.inspection import (
    Inspection,
    InspectionCache,
    fingerprint,
    inspect_image,
    inspect_mask,
    notes_of,
    pixel_problems,
    problems_of,
)
from harness.data.listing import (
    DataError,
    ImageFile,
    Listing,
    Problem,
    excluded,
    is_of_file,
    patterns_of,
)
from harness.data.official import PUBLISHED, changed_files, differences
from harness.data.readers import READERS, dataset_root
from harness.data.split import Sample, Split, contaminate, few_shot, split_normals
from harness.system.terminal import alike, nearest, shown
from harness.system.threads import available

_NEEDED = ("name", "title", "reader", "categories")
_SHOWN = 3
SEED = 42  # the default
_LIST = "exclude.txt"
# Settings that only these readers read.
_OF_READERS = {
    "train_share": ("folder", "elpv"),
    "normal_dir": ("folder",),
    "abnormal_dir": ("folder",),
    "mask_dir": ("folder",),
    "mask_ending": ("folder", "tree"),
}
_PLAIN = re.compile(r"[\w./*?@%+:|-]+")  # needs no quotes in a list

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """A category's images, the inspections of its sound files by name, and every problem.

    Without problems the category equals the published one, unless files are left out on purpose.
    The numbers and notes are as in `Split`.
    """

    category: str
    root: Path
    listing: Listing
    seen: dict[str, Inspection]
    problems: tuple[Problem, ...]
    decoding: Decoding = USUAL
    official: bool = False
    n_duplicates: int = 0
    notes: tuple[str, ...] = ()

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
    folder, path = conf_dir() / "dataset", Path(name)
    if not (name.endswith(".yaml") and path.is_file()):
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        if name not in known:
            choices = f"{', '.join(known)}, or the path of a .yaml file"
            raise DataError(f"dataset must be one of {choices}, got '{name}'{alike(name, known)}")
        path = folder / f"{name}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys = [field.name for field in fields(DatasetConfig)]
    if unknown := [key for key in settings if key not in keys]:
        raise DataError(f"{path}: '{unknown[0]}' is not one of {', '.join(keys)}")
    if missing := [key for key in _NEEDED if key not in settings]:
        raise DataError(f"{path}: '{missing[0]}' is missing")
    dataset = DatasetConfig(**settings)
    return dataset if root is None else replace(dataset, root=root)


def decoding_of(dataset: DatasetConfig) -> Decoding:
    """Return how the files of a dataset are decoded."""
    return Decoding(dataset.max_pixels or MOST_PIXELS, dataset.bits)


def list_category(root: Path, category: str, dataset: DatasetConfig) -> Listing:
    """List a category without the files of `dataset.exclude`."""
    read, patterns = partial(READERS[dataset.reader], root, category, dataset), patterns_of(dataset)
    listing = read(frozenset())
    if not patterns:
        return listing
    left_out, idle = excluded(listing, patterns)
    n_images = sum(image.name in left_out for image in (*listing.train, *listing.test))
    notes = []
    if left_out:
        files = f"{len(left_out)} files in all"
        notes.append(f"images left out by dataset.exclude: {n_images}, {files}")
    others = {*dataset.categories} - {category}
    if idle := [pattern for pattern in idle if pattern.partition("/")[0] not in others]:
        listed = ", ".join(map(shown, idle[:_SHOWN])) + (", ..." if len(idle) > _SHOWN else "")
        notes.append(f"patterns of dataset.exclude that match nothing: {len(idle)} ({listed})")
    return replace(read(left_out), complete=not left_out, n_left_out=n_images, notes=tuple(notes))


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
        With `official=False` wherever `dataset.official` is false or files are left out. Its notes
        are logged as warnings.

    Raises
    ------
    DataError
        In one line: the first problems, each with its file and rule, and how to list them all.
    """
    found = survey(dataset, category, seed=seed)
    _refuse(found, dataset, seed=seed)
    notes = tuple(f"{dataset.name}/{category}: {note}" for note in found.notes)
    for note in notes:
        log.warning("%s", note)
    train = few_shot(_samples(found.listing.train, found), category, seed=seed, n_train=n_train)
    test = _samples(found.listing.test, found)
    train, test = contaminate(train, test, category=category, seed=seed, share=train_contamination)
    return Split(
        train,
        test,
        found.fingerprint,
        official=found.official,
        n_left_out=found.listing.n_left_out,
        n_duplicates=found.n_duplicates,
        notes=notes,
    )


def verify(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """Check one category, decoding every image.

    Beyond the checks of `load_split`, this finds images whose pixels cannot be decoded though the
    file looks whole, and images with the same pixels though the files differ. Only a wrong setting
    or a missing root raises `DataError`.
    """
    check_dataset(dataset, category)
    root = dataset_root(dataset)
    try:
        found = survey(dataset, category, seed=seed)
    except DataError as error:
        nothing = Listing((), (), (), {})
        return Survey(category, root, nothing, {}, (Problem(category, str(error)),))
    of_pixels = pixel_problems(root, found.listing, found.seen, found.decoding)
    return replace(found, problems=(*found.problems, *of_pixels))


def list_images(dataset: DatasetConfig, category: str, *, seed: int) -> tuple[Path, Listing]:
    """Return the root of a dataset and what one category of it holds; no image is opened."""
    check_dataset(dataset, category)
    root = dataset_root(dataset)
    listing = list_category(root, category, dataset)
    if not listing.has_split:
        cache, keys = InspectionCache(root, category), _keys(listing)
        found = {name: cache.find(key, listing.files[name]) for name, key in keys.items()}
        digests = {name: inspection.digest for name, inspection in found.items() if inspection}
        listing = split_normals(
            listing, category, seed=seed, share=dataset.train_share, digests=digests
        )
    return root, listing


def is_inspected(root: Path, listing: Listing, *, category: str) -> bool:
    """Return whether a split of these images can be loaded without reading any of them."""
    cache = InspectionCache(root, category)
    return all(cache.find(key, listing.files[name]) for name, key in _keys(listing).items())


def survey(dataset: DatasetConfig, category: str, *, seed: int) -> Survey:
    """List and inspect one category, and collect every problem that its files have."""
    check_dataset(dataset, category)
    root = dataset_root(dataset)
    listing, decoding = list_category(root, category, dataset), decoding_of(dataset)
    seen, broken = _inspect_all(root, listing, category=category, decoding=decoding)
    notes, n_duplicates = [*listing.notes], 0
    if not listing.has_split:
        images = [image for image in listing.test if image.name in seen]
        digests = {image.name: seen[image.name].digest for image in images}
        if n_duplicates := len(images) - len({(i.anomalous, digests[i.name]) for i in images}):
            rule = "equal ones are on one side of the split"
            notes.append(f"images with the bytes of another one: {n_duplicates}; {rule}")
        listing = split_normals(
            listing, category, seed=seed, share=dataset.train_share, digests=digests
        )
    # Not read again: other bytes than those parsed could be there by now.
    seen |= {name: Inspection(digest, 0, 0, -1) for name, digest in listing.documents.items()}
    problems = [*listing.problems, *broken]
    problems += problems_of(listing, seen, category=category, bits=dataset.bits)
    problems += changed_files(root, category, seen=seen)
    published = PUBLISHED.get(dataset.name, {}).get(category)
    if published is None:
        problems.append(Problem(category, "is not a category of a published dataset", fatal=False))
    else:
        problems += differences(published, listing, seen=seen, category=category)
    return Survey(
        category,
        root,
        listing,
        seen,
        tuple(problems),
        decoding=decoding,
        official=dataset.official and listing.complete,
        n_duplicates=n_duplicates,
        notes=(*notes, *notes_of(listing, seen, decoding=decoding)),
    )


def check_dataset(dataset: DatasetConfig, category: str) -> None:
    """Refuse a layout that no reader has, and a category that is none of the dataset's."""
    if dataset.reader not in READERS:
        rule = f"dataset.reader must be one of {', '.join(READERS)}"
        raise DataError(f"{rule}, got '{dataset.reader}'{nearest(dataset.reader, READERS)}")
    if category not in dataset.categories:
        hint = nearest(category, dataset.categories)
        rule = f"category must be one of {', '.join(dataset.categories)} for {dataset.title}"
        raise DataError(f"{rule}, got '{category}'{alike(category, dataset.categories)}{hint}")
    if dataset.max_pixels is not None and dataset.max_pixels < 1:
        rule = "dataset.max_pixels must be null or at least 1"
        raise DataError(f"{rule}, got {dataset.max_pixels}")
    for name, readers in _OF_READERS.items():
        usual, value = getattr(DatasetConfig, name), getattr(dataset, name)
        if dataset.reader not in readers and value != usual:
            rule = f"dataset.{name} must be left out unless dataset.reader is"
            given = f"got {value!r} for {dataset.reader}"
            raise DataError(f"{rule} {' or '.join(readers)}, {given}")
    if not 8 <= dataset.bits <= 16:
        raise DataError(f"dataset.bits must be from 8 to 16, got {dataset.bits}")


def _refuse(found: Survey, dataset: DatasetConfig, *, seed: int) -> None:
    """Raise if a problem is fatal, or if any remains and the data must be official."""
    fatal = [problem for problem in found.problems if problem.fatal]
    if not fatal and not (found.problems and found.official):
        return
    rule = "differs from the published dataset (dataset.official=false runs it as unofficial)"
    listed = fatal or found.problems
    text = f"{dataset.name}/{found.category} {'is broken' if fatal else rule}: "
    text += "; ".join(map(str, listed[:_SHOWN]))
    of_files = any(is_of_file(problem, found.category) for problem in fatal)
    command = verify_command(dataset, found.category, seed=seed)
    command += f" write_exclude={_LIST}" if of_files else ""
    if len(listed) > _SHOWN:
        text += f"; and {len(listed) - _SHOWN} more, listed by `{command}`"
    elif of_files:
        text += f"; `{command}` lists the files"
    raise DataError(text + f"; dataset.exclude=@{_LIST} runs without them" * of_files)


def verify_command(dataset: DatasetConfig, category: str, *, seed: int) -> str:
    """Return the command that verifies a category with these very settings."""
    known = {path.stem for path in (conf_dir() / "dataset").glob("*.yaml")}
    base = dataset.name if dataset.name in known else dataset.reader
    usual = asdict(dataset_settings(base))
    given = {key: value for key, value in asdict(dataset).items() if value != usual[key]}
    words = [f"dataset={base}", f"category={category}"]
    words += [f"dataset.{key}={_as_typed(value)}" for key, value in given.items()]
    words += [f"seed={seed}"] if seed != SEED else []
    return shlex.join(["python", "-m", "harness.data", "verify", *words])


def _as_typed(value: object) -> str:
    """Write a value as the command line takes it."""
    if isinstance(value, list):
        return "[{}]".format(",".join(v if _PLAIN.fullmatch(v) else f'"{v}"' for v in value))
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


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
            decoding=found.decoding,
        )
        for image in images
    )


def _inspect_all(
    root: Path, listing: Listing, *, category: str, decoding: Decoding
) -> tuple[dict[str, Inspection], list[Problem]]:
    """Inspect every listed file that is there, reading only those that are new or changed."""
    cache = InspectionCache(root, category)
    keys = _keys(listing)
    found: dict[str, tuple[str, Inspection]] = {}
    for name, key in keys.items():
        inspection = cache.find(key, listing.files[name])
        if inspection and inspection.width * inspection.height <= decoding.max_pixels:
            found[name] = listing.files[name], inspection
    changed = [name for name in keys if name not in found]
    problems = []
    if changed:
        with ThreadPoolExecutor(available()) as pool:
            inspected = pool.map(lambda name: _inspect(root, name, keys[name], decoding), changed)
            results = list(inspected)
        for name, result in zip(changed, results, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                found[name] = result
        cache.save({key: found[name] for name, key in keys.items() if name in found})
    return {name: inspection for name, (_, inspection) in found.items()}, problems


def _keys(listing: Listing) -> dict[str, str]:
    """Return under which key each listed file that is there is cached: its kind and its name."""
    images = (*listing.train, *listing.test)
    kinds = {image.name: "image" for image in images}
    kinds |= {image.mask: "mask" for image in images if image.mask is not None}
    return {name: f"{kind}:{name}" for name, kind in kinds.items() if name in listing.files}


def _inspect(
    root: Path, name: str, key: str, decoding: Decoding
) -> tuple[str, Inspection] | Problem:
    """Read a file once; return its stamp as it was read, and what was seen."""
    try:
        stamp, data = read_stamped(root / name)
        inspect = inspect_mask if key.startswith("mask:") else inspect_image
        return stamp, inspect(data, decoding)
    except DataError as error:
        return Problem(name, str(error))
