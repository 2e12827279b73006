"""The published datasets: their archives, and what a category must equal to count as official.

Sources: the datasets' own papers and readmes (Bergmann et al., CVPR 2019; Mishra et al., ISIE 2021;
Zou et al., ECCV 2022; Buerhop-Lutz et al., EU PVSEC 2018).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.data.inspection import Inspection, fingerprint
from harness.data.listing import DataError, Listing, Problem, shown
from harness.data.split import NORMAL
from harness.system.files import DamagedError, read_json, write_json


class Archive(NamedTuple):
    """Where a dataset is published, the SHA-256 of that file, its licence, and its own page."""

    url: str
    sha256: str
    licence: str
    home: str


class PublishedCategory(NamedTuple):
    """One category as published: numbers of images, and what their files are.

    Each anomalous image has a mask (except in ELPV, which has none). `size` is (width, height)
    where all images have it, `smallest_side` tells resized copies where sizes vary. `split_digest`
    is given where a file and not the folders says which images train, `fingerprint` where it is
    known. Images of no published dataset are `synthetic`.
    """

    train: int
    test_normal: int
    test_anomalous: int
    suffix: str
    size: tuple[int, int] | None = None
    smallest_side: int = 0
    split_digest: str | None = None
    fingerprint: str | None = None
    synthetic: bool = False


def _square(train: int, normal: int, anomalous: int, side: int) -> PublishedCategory:
    return PublishedCategory(train, normal, anomalous, ".png", (side, side))


def _visa(train: int, normal: int, anomalous: int, digest: str) -> PublishedCategory:
    return PublishedCategory(
        train, normal, anomalous, ".JPG", smallest_side=600, split_digest=digest
    )


ARCHIVES: dict[str, Archive] = {
    "mvtec": Archive(
        url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        licence="CC BY-NC-SA 4.0: no commercial use",
        home="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    ),
    "btad": Archive(
        url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        licence="CC BY-SA 4.0",
        home="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    ),
    "visa": Archive(
        url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        licence="CC BY 4.0",
        home="https://github.com/amazon-science/spot-diff",
    ),
}
"""By dataset."""

PUBLISHED: dict[str, dict[str, PublishedCategory]] = {
    "mvtec": {
        "bottle": _square(209, 20, 63, 900)._replace(
            fingerprint="9b551eac1ef13934e949630ca0dbc969f5408f02d796036ee256aa7153836ec2"
        ),
        "cable": _square(224, 58, 92, 1024),
        "capsule": _square(219, 23, 109, 1000),
        "carpet": _square(280, 28, 89, 1024),
        "grid": _square(264, 21, 57, 1024),
        "hazelnut": _square(391, 40, 70, 1024),
        "leather": _square(245, 32, 92, 1024),
        "metal_nut": _square(220, 22, 93, 700),
        "pill": _square(267, 26, 141, 800),
        "screw": _square(320, 41, 119, 1024),
        "tile": _square(230, 33, 84, 840),
        "toothbrush": _square(60, 12, 30, 1024),
        "transistor": _square(213, 60, 40, 1024),
        "wood": _square(247, 19, 60, 1024),
        "zipper": _square(240, 32, 119, 1024),
    },
    "btad": {
        "01": PublishedCategory(400, 21, 49, ".bmp", (1600, 1600)),
        "02": PublishedCategory(399, 30, 200, ".png", (600, 600)),
        "03": PublishedCategory(1000, 400, 41, ".bmp", (800, 600)),
    },
    "visa": {
        "candle": _visa(900, 100, 100, "c8ddaa6152691505"),
        "capsules": _visa(542, 60, 100, "187d2ca78c6e9ba1"),
        "cashew": _visa(450, 50, 100, "fe91adb62f567334"),
        "chewinggum": _visa(453, 50, 100, "2b9a2cc68216e505"),
        "fryum": _visa(450, 50, 100, "2cdb82f2733e4c28"),
        "macaroni1": _visa(900, 100, 100, "2dfa5e2dfb99f55a"),
        "macaroni2": _visa(900, 100, 100, "1109d47398523e86"),
        "pcb1": _visa(904, 100, 100, "1d07ff2e3484ffbf"),
        "pcb2": _visa(901, 100, 100, "031735fdb5388ba1"),
        "pcb3": _visa(905, 101, 100, "8843251b222ece47"),
        "pcb4": _visa(904, 101, 100, "fcab19343c2be89d"),
        "pipe_fryum": _visa(450, 50, 100, "f250f5b476f5f797"),
    },
    "elpv": {
        "mono": PublishedCategory(352, 236, 313, ".png", (300, 300)),
        "poly": PublishedCategory(552, 368, 402, ".png", (300, 300)),
    },
}
"""By dataset and category."""


def differences(
    published: PublishedCategory, listing: Listing, *, seen: Mapping[str, Inspection], category: str
) -> list[Problem]:
    """Say in what a category differs from the published one; these problems are not fatal."""
    rules = [*_count_differences(published, listing)]
    if published.split_digest not in (None, split_digest(listing)):
        rules.append("is split otherwise than the published dataset")
    if not published.synthetic and (made := [n for n in seen if seen[n].synthetic]):
        rules.append(f"is synthetic: {len(made)} of its files were made by `harness.data`")
    problems = [Problem(category, rule, fatal=False) for rule in rules]
    for image in (*listing.train, *listing.test):
        if image.name in seen:
            found = _image_differences(published, image.name, seen=seen[image.name])
            problems += [Problem(image.name, rule, fatal=False) for rule in found]
    if not problems and published.fingerprint not in (None, fingerprint(seen)):
        rule = f"has the fingerprint {fingerprint(seen)}, published {published.fingerprint}"
        problems.append(Problem(category, f"{rule}: a file was changed", fatal=False))
    return problems


def split_digest(listing: Listing) -> str:
    """Digest which images train, which are tested, as normal or not, and with which masks."""
    splits = {"train": listing.train, "test": listing.test}
    lines = sorted(
        f"{split},{'anomaly' if image.anomalous else NORMAL},{image.name},{image.mask or ''}\n"
        for split, images in splits.items()
        for image in images
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def write_manifest(root: Path, digests: Mapping[str, str]) -> None:
    """Keep the SHA-256 of the files that came out of an archive, by name relative to the root."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for name, digest in digests.items():
        folder, below, _ = name.partition("/")
        if below:
            folders[folder][name] = digest
    for folder, files in folders.items():
        path, key = _manifest(root, folder)
        write_json(path, files, key=key)


def changed_files(root: Path, category: str, *, seen: Mapping[str, Inspection]) -> list[Problem]:
    """Name the files that are not as they came out of the archive; these are not fatal."""
    path, key = _manifest(root, category)
    try:
        digests = read_json(path, key=key)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except DamagedError as error:
        rule = "remove that file to go on without the comparison with the archive"
        rule += ", or remove the dataset and fetch it again"
        raise DataError(f"'{shown(str(path))}' is damaged or has no checksum; {rule}") from error
    except OSError as error:
        raise DataError(f"'{shown(str(path))}' cannot be read ({error.strerror})") from error
    return [
        Problem(name, "is not as it came out of the published archive", fatal=False)
        for name, inspection in seen.items()
        if name.startswith(f"{category}/") and digests.get(name) != inspection.digest
    ]


def _manifest(root: Path, folder: str) -> tuple[Path, str]:
    """Return the file that has the digests of a folder, and the key of its checksum."""
    file = root / ".dfkde" / "archive" / f"{folder}.json"
    return file, f"files of the archive in {folder}"


def _count_differences(published: PublishedCategory, listing: Listing) -> Iterator[str]:
    anomalous = sum(image.anomalous for image in listing.test)
    counts = {
        "training images": (len(listing.train), published.train),
        "normal test images": (len(listing.test) - anomalous, published.test_normal),
        "anomalous test images": (anomalous, published.test_anomalous),
    }
    for what, (count, expected) in counts.items():
        if count != expected:
            yield f"has {count} {what}, the published dataset {expected}"


def _image_differences(
    published: PublishedCategory, name: str, *, seen: Inspection
) -> Iterator[str]:
    size = f"{seen.width}x{seen.height}"
    if not name.endswith(published.suffix):
        yield f"is published as {published.suffix}"
    if published.size not in (None, (seen.width, seen.height)):
        yield f"is {size}, published as {'x'.join(map(str, published.size or ()))}"
    if min(seen.width, seen.height) < published.smallest_side:
        yield f"is {size}, published with no side below {published.smallest_side}"
