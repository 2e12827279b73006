"""What each kind of file means as RGB pixels and as a mask."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from harness.data import DataError, image_size, read_image, read_mask
from harness.data.inspection import inspect_image, inspect_mask

RGB = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_rgb_is_read_as_it_is(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_size(path) == (5, 7)


def test_grey_is_repeated_over_the_channels(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([GREY] * 3))


def test_black_and_white(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    expected = np.where(GREY > 100, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), np.dstack([expected] * 3))
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), GREY > 100)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path, suffix):
    deep = (GREY.astype(np.uint16) << 8) | 0xFF
    deep[0, 0] = 1  # black in 8 bits, and yet a defect in a mask
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(deep).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 1], deep >> 8)
    np.testing.assert_array_equal(read_mask(path), deep > 0)


def test_sixteen_bit_colour(tmp_path):
    deep = (RGB.astype(np.uint16) << 8) | 0x7F
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), RGB)


def test_an_alpha_channel_is_dropped(tmp_path):
    alpha = np.full((*GREY.shape, 1), 7, dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), RGB)
    Image.fromarray(np.concatenate([GREY[..., None], alpha], axis=2)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), np.dstack([GREY] * 3))
    black = np.concatenate([np.zeros_like(RGB), alpha], axis=2)
    Image.fromarray(black).save(tmp_path / "opaque.png")
    assert not read_mask(tmp_path / "opaque.png").any()


@pytest.mark.parametrize("transparency", [None, b"\x00\x80\xff"])
def test_a_palette_is_looked_up(tmp_path, transparency):
    indices = (GREY % 3).astype(np.uint8)
    palette = np.array([[255, 0, 9], [0, 0, 0], [1, 2, 3]], dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "palette.png", **({"transparency": transparency} if transparency else {}))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette[indices])
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), indices != 1)


def test_small_integers_are_defects(tmp_path):
    values = (GREY % 4).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), values > 0)


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Orientation -> what a viewer shows, written with plain array operations (EXIF 2.3, 4.6.4 A).
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_exif_orientation_is_applied(tmp_path, orientation, suffix):
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(RGB).save(path, exif=_turned(orientation))
    shown = SHOWN[orientation](RGB)
    np.testing.assert_array_equal(read_image(path), shown)
    assert image_size(path) == shown.shape[:2]
    seen = inspect_image(path.read_bytes())
    assert (seen.height, seen.width) == shown.shape[:2]
    assert inspect_mask(path.read_bytes())[1:3] == seen[1:3]


def test_an_orientation_behind_the_pixels_of_a_png(tmp_path):
    plain = io.BytesIO()
    Image.fromarray(RGB).save(plain, format="PNG")
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"eXIf", _turned(6).tobytes()[6:])
    data = plain.getvalue()
    end = data.rindex(b"IEND") - 4
    path = tmp_path / "late.png"
    path.write_bytes(data[:end] + chunk.getvalue() + data[end:])
    assert read_image(path).shape == (7, 5, 3)
    assert image_size(path) == (7, 5)


def test_jpeg_in_grey_and_cmyk(tmp_path):
    Image.new("L", (7, 5), 90).save(tmp_path / "grey.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.jpg"), np.full((5, 7, 3), 90))
    Image.new("CMYK", (7, 5), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.jpg"), np.full((5, 7, 3), 255))


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_errors_name_the_file(tmp_path, read):
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"text.png: cannot be decoded \(not an image: no PNG, "):
        read(path)
    with pytest.raises(DataError, match=r"absent.png: .*No such file"):
        read(tmp_path / "absent.png")


def test_reading_needs_no_heavy_library():
    code = (
        "import harness.data, sys; print(sorted({'torch', 'hydra', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
