"""The files of a category's folder by name, before any is opened, and the rules they break.

Files that are left out on purpose, `dataset.exclude`, are named by patterns.
"""

from __future__ import annotations

import glob
import os
import posixpath
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from harness.config import DatasetConfig
from harness.system.files import DamagedError, read_regular, write_atomically
from harness.system.terminal import alike, shown

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings that count as images, in lower case."""

NO_MASK = "has no ground truth mask"
"""The rule that an anomalous image without a mask breaks, where the category has masks."""

STRAY = "is a stray file, not part of the dataset"
"""The rule that a file breaks which no reader takes."""

_DEEPEST = 6
_SHOWN = 5
_FIRST_LINE = "# Files to leave out, for dataset.exclude=@FILE: a pattern in each line.\n"
# What systems, file servers and archivers put beside images, in lower case.
_JUNK = frozenset({"thumbs.db", "desktop.ini", "@eadir", "__macosx"})

Files = Mapping[str, str]
"""The `stamp` of files by their path relative to the dataset's root, with forward slashes."""


class DataError(ValueError):
    """The data or a setting about them breaks a rule; the message is one line."""


class AbsentError(DataError):
    """The dataset, or a category of it, is not on this machine."""


class Problem(NamedTuple):
    """A rule that a file or folder breaks; a fatal one allows not even an unofficial run."""

    file: str
    rule: str
    fatal: bool = True

    def __str__(self) -> str:
        """Write the problem as one line."""
        return f"{shown(self.file)}: {self.rule}"


class ImageFile(NamedTuple):
    """One image as its layout describes it; names are relative to the dataset's root.

    The layout says whether it is anomalous, and no name does: a defect type may be called `good`.
    """

    name: str
    defect_type: str
    anomalous: bool
    mask: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a reader finds for one category; a layout without a split has all images in `test`.

    `train` and `test` are sorted by name. `documents` are the text files that determine labels or
    the split: by name the SHA-256 of the very bytes that were parsed. `skipped` counts what the
    layout's protocol leaves out, in words. `dataset.exclude` leaves out `n_left_out` images, and
    no file at all of what is `complete`; `notes` tell of it.
    """

    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    problems: tuple[Problem, ...]
    files: Files
    documents: Mapping[str, str] = field(default_factory=dict)
    has_split: bool = True
    skipped: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    n_left_out: int = 0
    notes: tuple[str, ...] = ()


def is_image(name: str) -> bool:
    """Tell by its name whether a file counts as an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is hidden, or beside the data by no intention of anybody."""
    return name.startswith(".") or name.lower() in _JUNK


def stem(name: str) -> str:
    """Return a file's name without folder and suffix."""
    return posixpath.splitext(posixpath.basename(name))[0]


def stamp(status: os.stat_result) -> str:
    """Return size and times of modification and status change: they tell an unchanged file.

    One string, because whole statuses of many files weigh several times as much.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def walk(
    root: Path, folder: str, without: Collection[str] = ()
) -> tuple[dict[str, str], list[Problem]]:
    """List the files below a folder, by name; links are followed, hidden and system files left out.

    So are the files `without`. Dangling links, devices and names that are not UTF-8 are problems;
    a folder that does not exist or cannot be listed raises `DataError`.
    """
    if not (root / folder).is_dir():
        missing = f"'{folder}'{alike(folder, os.listdir(root))}"
        raise AbsentError(f"'{root}' has no folder {missing}; it holds {_holdings(root)}")
    files: dict[str, str] = {}
    problems: list[Problem] = []
    top = root / folder
    for place, folders, names in os.walk(top, onerror=_refuse, followlinks=True):
        if len(Path(place).relative_to(top).parts) >= _DEEPEST:
            levels = f"{_DEEPEST} levels (a link to a parent?)"
            raise DataError(f"{shown(place)}: folders nest deeper than {levels}")
        folders[:] = [name for name in folders if not is_junk(name)]
        prefix = "".join(f"{part}/" for part in Path(place).relative_to(root).parts)
        for name in (f"{prefix}{name}" for name in names if not is_junk(name)):
            text = name.encode(errors="backslashreplace").decode()
            if text in without:
                continue
            try:
                status = os.stat(root / name)
            except OSError as error:
                problems.append(Problem(text, f"cannot be read ({error.strerror})"))
                continue
            if text != name:
                problems.append(Problem(text, "its name is not valid UTF-8"))
            elif not stat.S_ISREG(status.st_mode):
                problems.append(Problem(name, "is not a regular file"))
            else:
                files[name] = stamp(status)
    return dict(sorted(files.items())), problems


def _refuse(error: OSError) -> None:
    raise DataError(f"{shown(error.filename)}: cannot be listed ({error.strerror})") from error


def stray(name: str) -> Problem:
    """Describe a file that has no place in the layout; fatal if it is an image."""
    if is_image(name):
        return Problem(name, "is an image outside the dataset's layout")
    return Problem(name, STRAY, fatal=False)


def no_masks(category: str) -> Problem:
    """Describe a category without any mask."""
    return Problem(category, "has no ground truth masks, so no pixel-level metrics", fatal=False)


def pair_masks(
    images: Sequence[ImageFile], masks: Iterable[tuple[str, str]], *, ending: str, category: str
) -> tuple[list[ImageFile], list[Problem]]:
    """Give each anomalous image its mask; `masks` holds (`defect_type/stem`, name) of each.

    A mask has the name of its image, or that and the ending. Names are compared in Unicode's
    composed form (NFC).
    """
    wanted = {mask_key(image) for image in images if image.anomalous}
    by_key: dict[str, str] = {}
    problems = []
    for key, name in masks:
        key = normalize("NFC", key)
        key = key if key in wanted else key.removesuffix(normalize("NFC", ending))
        if by_key.setdefault(key, name) != name:
            rule = f"is a second mask of one image, after {shown(by_key[key])}"
            problems.append(Problem(name, rule))
    if not by_key:
        return [*images], [no_masks(category)]
    paired = [i._replace(mask=by_key.get(mask_key(i))) if i.anomalous else i for i in images]
    bare = [image for image in paired if image.anomalous and image.mask is None]
    problems += [Problem(image.name, NO_MASK) for image in bare]
    used = Counter(image.mask for image in paired if image.mask is not None)
    problems += [
        Problem(name, f"is the mask of {count} images of one name, with different endings")
        for name, count in used.items()
        if count > 1
    ]
    keys = [mask_key(image) for image in bare]
    problems += [
        Problem(name, f"is a mask without an anomalous image{alike(key, keys)}")
        for key, name in by_key.items()
        if name not in used
    ]
    return paired, problems


def mask_key(image: ImageFile) -> str:
    """Return by what an image's mask is found."""
    return normalize("NFC", f"{image.defect_type}/{stem(image.name)}")


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


def excluded(listing: Listing, patterns: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Return the files of a category that patterns leave out, and the patterns that match none.

    `*` matches slashes too, and a pattern that matches a folder leaves out all that is in it. Names
    are compared in Unicode's composed form (NFC). An image goes with its mask, and a mask with the
    last of its images.
    """
    images = (*listing.train, *listing.test)
    names = {name for image in images for name in (image.name, image.mask) if name}
    below: dict[str, set[str]] = defaultdict(set)  # by a name, or a folder that it is in
    for name in names | {problem.file for problem in listing.problems}:
        path = PurePosixPath(normalize("NFC", name))
        for part in (path, *path.parents):
            below[str(part)].add(name)
    out: set[str] = set()
    idle = []
    for pattern in patterns:
        form = normalize("NFC", pattern).rstrip("/")
        found = set(below.get(form, ()))
        if glob.has_magic(form):
            found.update(*(below[part] for part in below if fnmatchcase(part, form)))
        out |= found
        idle += [] if found else [pattern]
    out |= {image.name for image in images if image.mask in out}
    used = {image.mask for image in images if image.name not in out}
    return frozenset(out | {i.mask for i in images if i.mask and i.mask not in used}), idle


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


def is_of_file(problem: Problem, category: str) -> bool:
    """Tell whether leaving a file out mends a problem."""
    return problem.fatal and problem.file != category


def _holdings(root: Path) -> str:
    """Name the first entries of a folder, for a message."""
    names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    first = ", ".join(f"'{shown(name)}'" for name in names[:_SHOWN]) or "nothing"
    return f"{first}, ..." if len(names) > _SHOWN else first


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


def _text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, DamagedError) as error:
        what = "cannot be read as a list of files for dataset.exclude"
        raise DataError(f"'{path}' {what} ({error})") from error
