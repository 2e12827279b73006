"""Planted faults of VisA's split file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.data.planting import (
    Fault,
    edit_csv,
    edit_row,
    move,
    unlink,
    write,
)

ANOMALY = "cashew/Data/Images/Anomaly/000.JPG"


MASK = "cashew/Data/Masks/Anomaly/000.png"


def _second_image_of_a_mask(root: Path) -> None:
    other = ANOMALY.replace(".JPG", ".png")
    with Image.open(root / ANOMALY) as image:
        image.save(root / other)
    edit_csv(lambda lines: [*lines, f"cashew,test,anomaly,{other},{MASK}"])(root)


def _convert_all_to_png(root: Path) -> None:
    for path in sorted((root / "cashew/Data/Images/Normal").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
        path.unlink()


VISA_FAULTS = [
    Fault(
        "two rows of one image, one without its mask",
        "visa",
        edit_csv(lambda lines: [*lines, f"cashew,test,anomaly,{ANOMALY},"]),
        f"{ANOMALY}: occurs 2 times in split_csv/1cls.csv",
    ),
    Fault(
        "no split file",
        "visa",
        unlink("split_csv/1cls.csv"),
        "split_csv/1cls.csv: the split file cannot be read",
    ),
    Fault(
        "empty split file",
        "visa",
        write("split_csv/1cls.csv", ""),
        "split_csv/1cls.csv: the split file cannot be read",
    ),
    Fault(
        "wrong header",
        "visa",
        edit_csv(lambda lines: ["object,set,label,image,mask", *lines[1:]]),
        "1cls.csv: its header must be object,split,label,image,mask, got object,set",
    ),
    Fault(
        "semicolons",
        "visa",
        edit_csv(lambda lines: [line.replace(",", ";") for line in lines]),
        "1cls.csv: its header must be object,split,label,image,mask, got object;split",
    ),
    Fault(
        "short row",
        "visa",
        edit_csv(lambda lines: [*lines, "cashew,train,normal"]),
        r"1cls.csv, line \d+: must have 5 fields, got 3",
    ),
    Fault(
        "unknown split",
        "visa",
        edit_row("cashew,train", "train", "validation"),
        r"1cls.csv, line \d+: split must be train or test, got 'validation'",
    ),
    Fault(
        "unknown label",
        "visa",
        edit_row("anomaly", "anomaly", "bad"),
        r"1cls.csv, line \d+: label must be normal or anomaly, got 'bad'",
    ),
    Fault(
        "duplicate row",
        "visa",
        edit_csv(lambda lines: [*lines, lines[1]]),
        r"cashew/Data/Images/Normal/\d{4}.JPG: occurs 2 times in split_csv/1cls.csv",
    ),
    Fault(
        "row of a missing file",
        "visa",
        edit_row("Normal", r"Normal/\d+", "Normal/9999"),
        "Normal/9999.JPG: is named in split_csv/1cls.csv but missing",
    ),
    Fault(
        "row outside the root",
        "visa",
        edit_row("Normal", r"cashew/Data/Images/Normal/\d+", "cashew/../../secret"),
        "cashew/../../secret.JPG: is named in split_csv/1cls.csv but missing",
    ),
    Fault(
        "row of another object",
        "visa",
        edit_row("Normal", "cashew/Data", "candle/Data"),
        "candle/Data/.*: is listed in split_csv/1cls.csv as an image of 'cashew'",
    ),
    Fault(
        "image in no row",
        "visa",
        edit_csv(lambda lines: lines[:1] + lines[2:]),
        r"cashew/Data/Images/Normal/\d{4}.JPG: is an image outside",
    ),
    Fault(
        "mask in no row",
        "visa",
        edit_row("Anomaly/000.JPG", "cashew/Data/Masks/Anomaly/000.png", ""),
        "Anomaly/000.JPG: has no ground truth mask",
    ),
    Fault(
        "row with another's mask",
        "visa",
        edit_row("Anomaly/000.JPG", "Masks/Anomaly/000", "Masks/Anomaly/001"),
        "Anomaly/000.JPG: has the mask of another image in .*Masks/Anomaly/001.png",
    ),
    Fault(
        "one mask of two images",
        "visa",
        _second_image_of_a_mask,
        "cashew/Data/Masks/Anomaly/000.png: is the mask of 2 images in split_csv/1cls.csv",
    ),
    Fault(
        "mask as image",
        "visa",
        edit_csv(lambda lines: [*lines, f"cashew,train,normal,{MASK},"]),
        f"{MASK}: is both an image and a mask in split_csv/1cls.csv",
    ),
    Fault(
        "anomaly in train",
        "visa",
        edit_row("Anomaly/000.JPG", "test", "train"),
        "Anomaly/000.JPG: is an anomalous training image",
    ),
    Fault(
        "normal image with a mask",
        "visa",
        edit_row("test,normal", "JPG,", "JPG,cashew/Data/Masks/Anomaly/000.png"),
        "is normal but has a mask",
    ),
    Fault(
        "half-converted images",
        "visa",
        _convert_all_to_png,
        r"Normal/\d{4}.JPG: is named in split_csv/1cls.csv but missing",
    ),
    Fault(
        "lower-case ending",
        "visa",
        move(ANOMALY, "cashew/Data/Images/Anomaly/000.jpg"),
        f"{ANOMALY}: is named in split_csv/1cls.csv but missing",
    ),
]
