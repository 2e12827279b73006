"""Small folders as people have them, one for each row of the table in `docs/datasets.md`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.bitmaps import SIDE, bitmap, own


def duplicates(root: Path) -> None:
    own(root)
    for number in (0, 3, 5, 9):
        shutil.copy(root / f"normal/{number:03}.bmp", root / f"normal/{number:03}_again.bmp")


def empty_masks(root: Path) -> None:
    own(root)
    for number in (1, 3):
        empty = Image.new("L", (SIDE, SIDE))
        empty.save(root / f"masks/spot/{number:03}.bmp")


def broken(root: Path) -> None:
    """An empty mask, an image cut short, one normal and anomalous, a mask of no image."""
    own(root)
    Image.new("L", (SIDE, SIDE)).save(root / "masks/spot/001.bmp")
    (root / "normal/004.bmp").write_bytes((root / "normal/004.bmp").read_bytes()[:100])
    shutil.copy(root / "normal/007.bmp", root / "abnormal/spot/002.bmp")
    bitmap(root / "masks/spot/[#] 1.bmp", 0, mask=True)


def mask_names(root: Path) -> None:
    own(root)
    for path in [*root.glob("masks/spot/*")]:
        path.rename(path.with_stem(f"{path.stem}_GT"))


def nested(root: Path) -> None:
    own(root / "flat")
    for old, new in (
        ("normal", "train/good"),
        ("abnormal/spot", "test/bad"),
        ("masks/spot", "ground_truth/bad"),
    ):
        (root / new).parent.mkdir(parents=True)
        (root / "flat" / old).rename(root / new)
    shutil.rmtree(root / "flat")


def good_bad(root: Path, *, image: str = ".bmp", mask: str = ".bmp") -> None:
    for number in range(12):
        bitmap(root / f"train/good/{number:03}{image}", number)
    for number in range(4):
        bitmap(root / f"test/good/{number:03}{image}", 50 + number)
        bitmap(root / f"test/bad/{number:03}{image}", 200 + number)
        bitmap(root / f"ground_truth/bad/{number:03}{mask}", number, mask=True)


def one_class(root: Path) -> None:
    # By content these are bitmaps: the readers do not go by the ending.
    good_bad(root / "candle", image=".JPG", mask=".png")


def loco(root: Path) -> None:
    base = root / "pushpins"
    for number in range(10):
        bitmap(base / f"train/good/{number:03}.bmp", number)
    for number in range(3):
        bitmap(base / f"validation/good/{number:03}.bmp", 20 + number)
        bitmap(base / f"test/good/{number:03}.bmp", 50 + number)
        bitmap(base / f"test/logical_anomalies/{number:03}.bmp", 100 + number)
        bitmap(base / f"test/structural_anomalies/{number:03}.bmp", 150 + number)
        for part in range(2):
            mask = f"ground_truth/logical_anomalies/{number:03}/{part:03}.bmp"
            bitmap(base / mask, part, mask=True)
    (base / "defects_config.json").write_text("[]")


def jpeg_masks(root: Path) -> None:
    """Discs on 64 x 64, for a JPEG of 8 x 8 is one block."""
    own(root)
    y, x = np.mgrid[:64, :64]
    shutil.rmtree(root / "masks")
    (root / "masks/spot").mkdir(parents=True)
    for number in range(4):
        disc = ((y - 30) ** 2 + (x - 20 - number) ** 2 <= 81).astype(np.uint8) * 255
        with Image.open(root / f"abnormal/spot/{number:03}.bmp") as image:
            image.resize((64, 64)).save(root / f"abnormal/spot/{number:03}.bmp")
        Image.fromarray(disc).save(root / f"masks/spot/{number:03}.jpg", quality=75)


def other_files(root: Path) -> None:
    """A JPEG called .jfif, and what no reader takes; what a file server wrote is no image."""
    own(root)
    with Image.open(root / "normal/000.bmp") as image:
        image.save(root / "normal/000.jfif", "JPEG")
    for name in ("a.heic", "b.HEIC", "c.gif"):
        (root / "normal" / name).write_bytes(b"x")
    for name in ("@eaDir/000.bmp", "__MACOSX/000.bmp", ".ipynb_checkpoints/000.bmp", "._000.bmp"):
        (root / "normal" / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "normal/000.bmp", root / "normal" / name)


def twelve_bits(root: Path) -> None:
    own(root)
    for path in [*root.glob("*/**/*.bmp")]:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L")).astype(np.uint16) * 16
        if "masks" not in path.parts:
            Image.fromarray(grey).save(path.with_suffix(".png"))
            path.unlink()


def large(root: Path) -> None:
    own(root)
    Image.new("1", (9460, 9460)).save(root / "normal/large.png")


CASES: dict[str, Callable[[Path], None]] = {
    case.__name__: case
    for case in (
        duplicates,
        empty_masks,
        broken,
        mask_names,
        nested,
        good_bad,
        one_class,
        loco,
        jpeg_masks,
        other_files,
        twelve_bits,
        large,
    )
}
