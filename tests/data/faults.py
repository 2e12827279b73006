"""Planted faults: what is done to a sound dataset, and what the one-line message must say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.planting import (
    Fault,
    duplicate,
    flip_byte,
    move,
    repaint,
    save_as,
    swap_folders,
    truncate,
    unlink,
    write,
)
from tests.data.visa_faults import ANOMALY


def _half_of_train(root: Path) -> None:
    for path in sorted((root / "bottle/train/good").iterdir())[::2]:
        path.unlink()


def _no_masks(root: Path) -> None:
    shutil.rmtree(root / "bottle/ground_truth")


def _no_normal_tests(root: Path) -> None:
    shutil.rmtree(root / "bottle/test/good")


def _nothing_but_normal(root: Path) -> None:
    for folder in ("test", "ground_truth"):
        for kind in ("spot", "scratch"):
            shutil.rmtree(root / "bottle" / folder / kind, ignore_errors=True)


def _no_train(root: Path) -> None:
    shutil.rmtree(root / "bottle/train")


def _undecodable_name(root: Path) -> None:
    shutil.copyfile(
        root / "bottle/train/good/000.png", os.fsencode(root / "bottle/train/good") + b"/\xff.png"
    )


def _gif(root: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (n, n, n)) for n in (0, 99)]
    frames[0].save(
        root / "bottle/train/good/000.png", format="TIFF", save_all=True, append_images=frames[1:]
    )


def _float_image(root: Path) -> None:
    pixels = np.zeros((32, 32), dtype=np.float32)
    Image.fromarray(pixels).save(root / "bottle/train/good/000.png", format="TIFF")


def _text_mask(root: Path) -> None:
    (root / "03/ground_truth/ko/0000.bmp").write_text("mask")


def _loop(root: Path) -> None:
    (root / "bottle/train/good/again").symlink_to(root / "bottle", target_is_directory=True)


SPOT, MASK = "bottle/test/spot/000.png", "bottle/ground_truth/spot/000_mask.png"
TRAIN = "bottle/train/good/000.png"

FAULTS = [
    # what is missing
    Fault("half of train", "mvtec", _half_of_train, "bottle: has 12 training images, .* 24", False),
    Fault("no train folder", "mvtec", _no_train, "bottle: has no training images"),
    Fault("one test image", "mvtec", unlink("bottle/test/good/000.png"), "3 normal test", False),
    Fault("no normal test", "mvtec", _no_normal_tests, "bottle: has no normal test images"),
    Fault("no defects", "mvtec", _nothing_but_normal, "bottle: has no anomalous test images"),
    Fault("one mask", "mvtec", unlink(MASK), f"{SPOT}: has no ground truth mask"),
    Fault("all masks", "mvtec", _no_masks, "bottle: has no ground truth masks, so", False),
    Fault("one image", "mvtec", unlink(SPOT), f"{MASK}: is a mask without an anomalous image"),
    Fault("category", "mvtec", move("bottle", "botle"), "has no folder 'bottle'; it holds 'botle'"),
    # what is mixed up
    Fault(
        "masks swapped between defect types",
        "mvtec",
        swap_folders("bottle/ground_truth/spot", "bottle/ground_truth/scratch"),
        "bottle/test/spot/002.png: has no ground truth mask",
    ),
    Fault(
        "mask of a normal image",
        "mvtec",
        lambda root: shutil.copytree(
            root / "bottle/ground_truth/spot", root / "bottle/ground_truth/good"
        ),
        "ground_truth/good/000_mask.png: is a mask without an anomalous image",
    ),
    Fault(
        "mask without its ending",
        "mvtec",
        move(MASK, "bottle/ground_truth/spot/000.png"),
        "ground_truth/spot/000.png: is a mask whose name does not end in '_mask'",
    ),
    Fault(
        "two masks of one image",
        "mvtec",
        duplicate(MASK, "bottle/ground_truth/spot/000_mask.bmp"),
        "000_mask.png: is a second mask of one image, after .*000_mask.bmp",
    ),
    Fault(
        "two images of one mask",
        "mvtec",
        duplicate("bottle/test/good/000.png", "bottle/test/spot/000.jpg"),
        f"{MASK}: is the mask of 2 images of one name",
    ),
    Fault(
        "train image in test",
        "mvtec",
        duplicate(TRAIN, "bottle/test/good/000.png"),
        f"bottle/test/good/000.png: is a test image identical to the training image {TRAIN}",
    ),
    Fault(
        "defects among the training images",
        "mvtec",
        lambda root: shutil.copytree(root / "bottle/test/spot", root / "bottle/train/spot"),
        "bottle/train/spot/000.png: is an image outside the dataset's layout",
    ),
    Fault(
        "image in no folder",
        "mvtec",
        move(TRAIN, "bottle/000.png"),
        "bottle/000.png: is an image outside the dataset's layout",
    ),
    # masks that fit no image
    Fault(
        "mask of the wrong size",
        "mvtec",
        repaint(MASK, lambda mask: mask.resize((16, 16))),
        f"{MASK}: is 16x16, its image 32x32",
    ),
    Fault(
        "turned mask",
        "btad",
        repaint("03/ground_truth/ko/0000.bmp", lambda mask: mask.resize((32, 24))),
        "03/ground_truth/ko/0000.bmp: is 32x24, its image 32x32",
    ),
    Fault(
        "empty mask",
        "mvtec",
        repaint(MASK, lambda mask: mask.point(lambda value: 0)),
        f"{MASK}: is an empty mask: no pixel is above 0",
    ),
    Fault("text as mask", "btad", _text_mask, "ko/0000.bmp: cannot be decoded .not an image."),
    Fault("truncated mask", "mvtec", truncate(MASK, 0.6), f"{MASK}: cannot be decoded"),
    # files that are no images
    Fault("truncated PNG", "mvtec", truncate(TRAIN, 0.7), f"{TRAIN}: cannot be decoded"),
    Fault("truncated BMP", "btad", truncate("03/train/ok/0000.bmp", 0.7), "0000.bmp: .* truncated"),
    Fault("truncated JPEG", "visa", truncate(ANOMALY, 0.7), f"{ANOMALY}: .*truncated"),
    Fault("flipped byte in a PNG", "mvtec", flip_byte(TRAIN, 0.5), f"{TRAIN}: cannot be decoded"),
    Fault("zero bytes", "mvtec", write(TRAIN, b""), rf"{TRAIN}: is empty \(0 bytes\)"),
    Fault("text named .png", "mvtec", write(TRAIN, "hello"), f"{TRAIN}: .*not an image"),
    Fault("several images in one", "mvtec", _gif, f"{TRAIN}: .*holds several images, not one"),
    Fault("floating point image", "mvtec", _float_image, f"{TRAIN}: .*pixels of mode F"),
    Fault(
        "dangling link",
        "mvtec",
        lambda root: (root / "bottle/train/good/x.png").symlink_to(root / "nowhere"),
        "bottle/train/good/x.png: cannot be read .No such file",
    ),
    Fault(
        "pipe",
        "mvtec",
        lambda root: os.mkfifo(root / "bottle/train/good/x.png"),
        "bottle/train/good/x.png: is not a regular file",
    ),
    Fault(
        "line break in a name",
        "mvtec",
        duplicate("bottle/test/good/000.png", "bottle/train/good/a\nb.png"),
        r"training image bottle/train/good/a\\nb.png",
    ),
    Fault("link to a parent", "mvtec", _loop, "nest deeper than 6 levels"),
    Fault("name not UTF-8", "mvtec", _undecodable_name, r"\\udcff.png: its name is not valid"),
    # what does not belong
    Fault(
        "jpg among png",
        "mvtec",
        save_as(TRAIN, "bottle/train/good/000.jpg"),
        "bottle/train/good/000.jpg: is published as .png",
        False,
    ),
    Fault(
        "stray file",
        "mvtec",
        write("bottle/train/good/notes.txt", "x"),
        "bottle/train/good/notes.txt: is a stray file",
        False,
    ),
    Fault(
        "stray archive",
        "btad",
        write("03/test/ko.zip", "x"),
        "03/test/ko.zip: is a stray file",
        False,
    ),
    Fault(
        "unknown image format",
        "mvtec",
        move(TRAIN, "bottle/train/good/000.gif"),
        "bottle/train/good/000.gif: is a stray file",
        False,
    ),
    Fault(
        "resized image",
        "mvtec",
        repaint(TRAIN, lambda image: image.resize((16, 16))),
        f"{TRAIN}: is 16x16, published as 32x32",
        False,
    ),
    Fault(
        "spaces and unicode in a name",
        "mvtec",
        duplicate("bottle/test/good/000.png", "bottle/train/good/000 Kopie é.png"),
        "is a test image identical to the training image bottle/train/good/000 Kopie é.png",
    ),
]
