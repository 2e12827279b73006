"""Files that are left out on purpose: `dataset.exclude`, as patterns or as a file of them."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from harness.config import DatasetConfig
from harness.data.listing import DataError, ImageFile, Listing, Problem
from harness.data.readers import READERS
from harness.system.files import DamagedError, read_regular, write_atomically
from harness.system.terminal import shown

_SHOWN = 3
_FIRST_LINE = "# Files to leave out, for dataset.exclude=@FILE: a pattern in each line.\n"


def patterns_of(dataset: DatasetConfig) -> list[str]:
    """Return the patterns of `dataset.exclude`, which may name a file of them."""
    given = dataset.exclude
    if given is None:
        return []
    if isinstance(given, str) and given.startswith("@"):
        lines = _text(Path(given[1:]).expanduser()).splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]
    if isinstance(given, list) and all(isinstance(one, str) and one for one in given):
        return list(given)
    rule = "dataset.exclude must be a list of patterns, [normal/007.png,*_thumb.jpg], or @FILE"
    raise DataError(f"{rule}, got {given!r}")


class Kept(NamedTuple):
    """What stays of a category, and what is left out of it on purpose."""

    listing: Listing
    left_out: frozenset[str]
    n_images: int  # of these files
    notes: tuple[str, ...]


def list_category(root: Path, category: str, dataset: DatasetConfig) -> Kept:
    """List a category without the files of `dataset.exclude`."""
    read, patterns = READERS[dataset.reader], patterns_of(dataset)
    listing = read(root, category, dataset, frozenset())
    if not patterns:
        return Kept(listing, frozenset(), 0, ())
    images = (*listing.train, *listing.test)
    named = {name for image in images for name in (image.name, image.mask) if name}
    named |= {problem.file for problem in listing.problems}
    matched, idle = matching(named, patterns)
    left_out = with_partners(matched, images)
    n_images = sum(image.name in left_out for image in images)
    notes = []
    if left_out:
        files = f"{len(left_out)} files in all"
        notes.append(f"images left out by dataset.exclude: {n_images}, {files}")
    others = {*dataset.categories} - {category}
    if idle := [pattern for pattern in idle if pattern.partition("/")[0] not in others]:
        listed = ", ".join(map(shown, idle[:_SHOWN])) + (", ..." if len(idle) > _SHOWN else "")
        notes.append(f"patterns of dataset.exclude that match nothing: {len(idle)} ({listed})")
    return Kept(read(root, category, dataset, left_out), left_out, n_images, tuple(notes))


def matching(names: Collection[str], patterns: Iterable[str]) -> tuple[set[str], list[str]]:
    """Return the names that patterns match, and the patterns that match none.

    `*` matches slashes too, and a pattern that matches a folder leaves out all that is in it. Names
    are compared in Unicode's composed form (NFC).
    """
    below: dict[str, set[str]] = defaultdict(set)  # by a name, or a folder that it is in
    for name in names:
        path = PurePosixPath(normalize("NFC", name))
        for part in (path, *path.parents):
            below[str(part)].add(name)
    matched: set[str] = set()
    idle = []
    for pattern in patterns:
        form = normalize("NFC", pattern).rstrip("/")
        found = set(below.get(form, ()))
        if glob.has_magic(form):
            found.update(*(below[part] for part in below if fnmatchcase(part, form)))
        matched |= found
        idle += [] if found else [pattern]
    return matched, idle


def with_partners(matched: Collection[str], images: Iterable[ImageFile]) -> frozenset[str]:
    """Add the images whose mask is left out, and the masks of which no image stays."""
    images = list(images)
    out = {i.name for i in images if i.name in matched or i.mask in matched}
    used = {image.mask for image in images if image.name not in out}
    return frozenset({*matched, *out, *(i.mask for i in images if i.mask and i.mask not in used)})


def write_list(path: Path, *, kept: Sequence[str], broken: Mapping[str, Sequence[Problem]]) -> int:
    """Write the patterns there are and the files of fatal problems; return how many files.

    Problems that are of no file, as that there is no normal image, are none that a list can mend;
    they come by category. A file that is none of these lists is not overwritten.
    """
    if path.exists() and not _text(path).startswith(_FIRST_LINE):
        raise DataError(f"'{path}' is there already and no list of files to leave out")
    lines = list(_lines(broken))
    text = "".join(f"{line}\n" for line in (*kept, *lines))
    try:
        write_atomically(path, (_FIRST_LINE + text).encode())
    except OSError as error:
        raise DataError(f"'{path}' cannot be written ({error.strerror or error})") from error
    return sum(not line.startswith("#") for line in lines)


def _lines(broken: Mapping[str, Sequence[Problem]]) -> Iterator[str]:
    """Write each file once, below its rules."""
    rules: dict[str, list[str]] = {}
    for category, problems in broken.items():
        for problem in problems:
            if is_of_file(problem, category):
                rules.setdefault(problem.file, []).append(problem.rule)
    for name, broken_rules in rules.items():
        yield from (f"# {' '.join(rule.split())}" for rule in broken_rules)
        # What no line holds as it is becomes what matches it.
        pattern = "".join(c if c.isprintable() else "?" for c in glob.escape(name))
        yield f"[#]{pattern[1:]}" if pattern.startswith("#") else pattern


def is_of_file(problem: Problem, category: str) -> bool:
    """Tell whether leaving a file out mends a problem."""
    return problem.fatal and problem.file != category


def _text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, DamagedError) as error:
        what = "cannot be read as a list of files for dataset.exclude"
        raise DataError(f"'{path}' {what} ({error})") from error
