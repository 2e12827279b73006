"""One definition of a network's input: exact against Pillow, close to torch's float resize."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config import FeaturesConfig
from harness.data import DataError, read_image
from harness.features.inputs import read_input
from harness.features.settings import check_features, region
from tests.features.pictures import save


def test_the_input_is_pillows_bilinear_filter_on_8_bits(tmp_path):
    path = save(tmp_path / "rgb.png", "RGB")
    with Image.open(path) as image:
        resized = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    expected = (resized / 255).astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_input(path, image_size=32), expected)


@pytest.mark.parametrize("size", [16, 32, 61, 100])
def test_float_antialias_is_torchs_filter_on_float_images(tmp_path, size):
    path = save(tmp_path / "rgb.png", "RGB")
    tensor = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].double() / 255
    expected = torch.nn.functional.interpolate(
        tensor, (size, size), mode="bilinear", antialias=True
    )
    found = read_input(path, image_size=size, resize="float_antialias")
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "crop", "box"), [(32, 20, (6, 6, 26, 26)), (33, 10, (11,) * 2 + (21,) * 2)]
)
def test_the_crop_is_pillows_of_the_resized_image(tmp_path, size, crop, box):
    path = save(tmp_path / "rgb.png", "RGB")
    resized = Image.open(path).resize((size, size), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop(box), np.float32).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(read_input(path, image_size=size, center_crop=crop), expected)


def test_a_drawn_frame_is_cropped_away(tmp_path):
    """An image with a white frame of 8 of 64 pixels: the central 48 are black, one more is not."""
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[8:56, 8:56] = 0
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    for resize in ("pil", "float_antialias"):
        seen, more = (
            read_input(tmp_path / "frame.png", image_size=64, resize=resize, center_crop=crop)
            for crop in (48, 50)
        )
        assert seen.shape == (3, 48, 48)
        assert not seen.any()
        assert more[:, 1:-1, 1:-1].max() == 0
        assert (more[:, 0] == 1).all()


@pytest.mark.parametrize("crop", [0, -1, 65])
def test_a_crop_that_no_image_has_is_refused(crop):
    with pytest.raises(ValueError, match="center_crop must be null or an integer from 1 to image_"):
        check_features(FeaturesConfig(), image_size=64, center_crop=crop)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_that_no_image_has_is_refused(size):
    with pytest.raises(ValueError, match="image_size must be an integer of at least 1, got"):
        check_features(FeaturesConfig(), image_size=size)


@pytest.mark.parametrize(("crop", "size"), [(7, 31), (1, 256), (224, 256), (255, 256), (9, 10)])
def test_the_region_holds_every_pixel_that_the_crop_touches(crop, size):
    """Against a picture in which each pixel is marked whose square meets that of the crop."""
    first = Fraction((size - crop) // 2, size)
    for height, width in [(900, 900), (600, 801), (5, 3), (size, size)]:
        rows, columns = region((height, width), image_size=size, center_crop=crop)
        for n, part in ((height, rows), (width, columns)):
            begin, end = first * n, (first + Fraction(crop, size)) * n
            marked = [k for k in range(n) if k + 1 > begin and k < end]
            assert list(range(n))[part] == marked


def test_a_file_that_is_missing_is_told_as_read_image_tells_it(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be decoded \(No such file"):
        read_input(tmp_path / "gone.png", image_size=8)
