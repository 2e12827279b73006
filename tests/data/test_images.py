"""What each kind of file means as RGB pixels and as a mask."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from harness.data import DataError, read_image, read_mask
from harness.data.images import read_stamped
from harness.data.inspection import inspect_image, inspect_mask
from harness.features.inputs import decode
from tests.data.planting import huge

RGB = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def image_size(path):
    seen = inspect_image(path.read_bytes())
    return seen.height, seen.width


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
    # No orientations, so that they turn nothing.
    0: lambda a: a,
    9: lambda a: a,
    255: lambda a: a,
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


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_errors_name_the_file(tmp_path, read):
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"text.png: cannot be decoded \(not an image: no PNG, "):
        read(path)
    with pytest.raises(DataError, match=r"absent.png: .*No such file"):
        read(tmp_path / "absent.png")


LOOKS = {
    "read_image": read_image,
    "read_mask": read_mask,
    "inspect_image": lambda path: inspect_image(path.read_bytes()),
    "inspect_mask": lambda path: inspect_mask(path.read_bytes()),
    "decode": lambda path: decode(path.read_bytes(), path),
}


def refusal(path, data, look):
    """Return in what words the bytes of an image file are refused."""
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        LOOKS[look](path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(form, image=None, **options):
    stream = io.BytesIO()
    (Image.fromarray(RGB) if image is None else image).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("form", ["EPS", "GIF", "PPM", "TGA", "ICO", "JPEG2000", "PCX"])
def test_no_other_format_is_opened_whatever_the_name(tmp_path, form, look):
    """EPS above all: Pillow starts Ghostscript for it."""
    what = refusal(tmp_path / "image.png", saved(form), look)
    assert "not an image: no PNG, JPEG, BMP, TIFF or WebP" in what


@pytest.mark.skipif(
    "avif" not in features.get_supported_modules(), reason="Pillow was built without AVIF"
)
def test_avif_is_no_png(tmp_path):
    assert "not an image" in refusal(tmp_path / "image.png", saved("AVIF"), "read_image")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "MPO"])
def test_the_content_says_which_format_it_is(tmp_path, form):
    options = {"save_all": True, "append_images": [Image.fromarray(RGB)]} if form == "MPO" else {}
    (tmp_path / "image.bmp").write_bytes(saved(form, **options))
    assert read_image(tmp_path / "image.bmp").shape == RGB.shape


def tiff(*entries, after=0):
    """Write a TIFF of no pixels: tags with a long each, then the offset of the next image."""
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + struct.pack("<I", after)


GREY_TIFF = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (279, 256)]
DAMAGED_TIFF = {
    "no width": tiff(*GREY_TIFF[1:]),
    "no height": tiff(*GREY_TIFF[:1], *GREY_TIFF[2:]),
    "no pixels": tiff(*GREY_TIFF[:5]),
    "a palette that is none": tiff(*GREY_TIFF[:4], (262, 3), *GREY_TIFF[5:]),
    "nothing at all": tiff(),
    "a second image without a size": tiff(*GREY_TIFF, after=98) + tiff(*GREY_TIFF[2:])[8:],
    "a second image without its palette": (
        tiff(*GREY_TIFF, after=98) + tiff(*GREY_TIFF[:4], (262, 3), *GREY_TIFF[5:])[8:]
    ),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", DAMAGED_TIFF)
def test_a_damaged_tiff_is_one_line(tmp_path, name, look):
    assert "cannot be decoded" in refusal(tmp_path / "image.tif", DAMAGED_TIFF[name], look)


def bomb(width, height):
    """Write a PNG of the given size that holds no pixels."""
    stream = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    stream.seek(8)
    PngImagePlugin.putchunk(stream, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    PngImagePlugin.putchunk(stream, b"IDAT", zlib.compress(b""))
    PngImagePlugin.putchunk(stream, b"IEND", b"")
    return stream.getvalue()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", [(9460, 9460), (1, 90_000_000), (90_000_000, 1)])
def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path, size, look):
    what = refusal(tmp_path / "bomb.png", bomb(*size), look)
    assert f"has {size[0]}x{size[1]} pixels, more than 89,478,485" in what


@pytest.mark.parametrize("look", LOOKS)
def test_pixels_beyond_the_limit_of_pillow_are_refused(tmp_path, look):
    assert "cannot be decoded" in refusal(tmp_path / "bomb.png", bomb(2**31 - 1, 2**31 - 1), look)


def segment(kind, body=b""):
    return bytes((0xFF, kind)) + struct.pack(">H", 2 + len(body)) + body


def jpeg(behind_head=b"", before_scan=b""):
    """Write a JPEG with bytes behind its first segment, and before the marker of its pixels."""
    data = saved("JPEG")
    scan = data.index(b"\xff\xda")
    return data[:20] + behind_head + data[20:scan] + before_scan + data[scan:]


def chunk(kind, body=b""):
    stream = io.BytesIO()
    PngImagePlugin.putchunk(stream, kind, body)
    return stream.getvalue()


def png(before=b"", after=b""):
    """Write a PNG with chunks before and after its pixels."""
    data = saved("PNG")
    end = data.index(b"IEND") - 4
    return data[:33] + before + data[33:end] + after + data[end:]


@pytest.mark.parametrize("look", LOOKS)
def test_scans_that_visit_too_many_pixels_together_are_refused(tmp_path, look):
    data = saved("JPEG", Image.fromarray(GREY), progressive=True)
    last = data.rfind(b"\xff\xda")
    data = bytearray(data[:last] + data[last:-2] * 21 + data[-2:])
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 10_500, 8500)
    what = refusal(tmp_path / "scans.jpg", bytes(data), look)
    assert "pixels in all its scans, more than 1,789,569,700)" in what


@pytest.mark.parametrize("look", LOOKS)
def test_a_tile_larger_than_any_image_is_refused(tmp_path, look):
    """It is decoded whole, for an image of 16 pixels."""
    tiles = [(322, 2**16), (323, 2**15), (324, 8), (325, 256)]
    what = refusal(tmp_path / "tiles.tif", tiff(*GREY_TIFF[:5], *tiles), look)
    assert "has 65536x32768 pixels, more than" in what


@pytest.mark.parametrize("look", LOOKS)
def test_of_several_images_no_more_than_two_are_looked_at(tmp_path, look, monkeypatch):
    """A chain of images may be as long as the file, and each takes the longer to find."""
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda self: 1 / 0))
    data = tiff(*GREY_TIFF, after=8 + 2 + 12 * len(GREY_TIFF) + 4)
    first_end = len(data)
    data += tiff(*GREY_TIFF)[8:]
    assert struct.unpack_from("<I", data, first_end - 4) == (first_end,)
    assert "holds several images, not one" in refusal(tmp_path / "two.tif", data, look)


def test_too_little_memory_is_told(tmp_path, monkeypatch):
    def open_none(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", open_none)
    what = refusal(tmp_path / "image.png", b"x", "read_image")
    assert what.endswith("image.png: cannot be decoded (it needs more memory than there is)")


@pytest.mark.parametrize("look", ["read_image", "read_mask"])
def test_a_pipe_is_not_waited_for(tmp_path, look):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"image.png: cannot be decoded \(not a regular file\)"):
        LOOKS[look](tmp_path / "image.png")


def test_a_pipe_is_not_waited_for_when_inspected_either(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"^cannot be decoded \(not a regular file\)$"):
        read_stamped(tmp_path / "image.png")


@pytest.mark.parametrize("look", ["read_image", "read_mask"])
def test_a_file_larger_than_the_memory_is_told(tmp_path, look):
    huge(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"image.png: cannot be decoded \(it needs more memory"):
        LOOKS[look](tmp_path / "image.png")
    with pytest.raises(DataError, match=r"^cannot be decoded \(it needs more memory"):
        read_stamped(tmp_path / "image.png")


NO_EXIF = {
    "text": b"no EXIF data at all",
    "no TIFF": b"Exif\0\0XX*\0\0\0\0\x08",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01",
    "an orientation in words": b"II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\x006\0\0\0\0\0\0\0",
}


def with_exif(form, exif, **options):
    """Write an image with bytes in the place of its EXIF data."""
    options |= {"lossless": True} if form == "WEBP" else {}
    return saved(form, exif=exif, **options)


@pytest.mark.parametrize("name", NO_EXIF)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_orientation_that_cannot_be_read_is_none(tmp_path, name, form):
    (tmp_path / "image.png").write_bytes(with_exif(form, NO_EXIF[name]))
    check_upright(tmp_path / "image.png")


@pytest.mark.parametrize("name", NO_EXIF)
@pytest.mark.parametrize("dpi", [None, (72, 72)])
def test_an_orientation_of_a_jpeg_that_cannot_be_read_is_none(tmp_path, name, dpi):
    options = {} if dpi is None else {"dpi": dpi}
    exif = NO_EXIF[name]
    exif = exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif
    (tmp_path / "image.jpg").write_bytes(with_exif("JPEG", exif, **options))
    plain = np.asarray(Image.open(io.BytesIO(saved("JPEG"))))
    check_upright(tmp_path / "image.jpg", plain)


def test_a_profile_that_is_no_exif_is_no_orientation(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 4\nzz")
    (tmp_path / "image.png").write_bytes(saved("PNG", pnginfo=text))
    check_upright(tmp_path / "image.png")


def check_upright(path, pixels=RGB):
    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(decode(path.read_bytes(), path), pixels)
    np.testing.assert_array_equal(read_mask(path), (pixels > 0).any(axis=2))
    assert image_size(path) == pixels.shape[:2]
    for inspect in (inspect_image, inspect_mask):
        seen = inspect(path.read_bytes())
        assert (seen.height, seen.width) == pixels.shape[:2]


def suspect_tiff(*entry):
    """Write a TIFF with one more tag."""
    pixels = bytes(8 + 2 + 12 * 8 + 4) + bytes(256)
    head = tiff(*GREY_TIFF[:5], (273, len(pixels) - 256), GREY_TIFF[6], (40_000, 7))
    return head.replace(struct.pack("<HHII", 40_000, 4, 1, 7), struct.pack("<HHII", *entry)) + (
        bytes(256)
    )


# Pixels that are sound, and of which Pillow warns for something else.
SUSPECT = {
    "exif.png": lambda: with_exif("PNG", NO_EXIF["cut"]),
    "no_frame.png": lambda: png(chunk(b"acTL", bytes(8))),
    "mpo.jpg": lambda: jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0")),
    "long.tif": lambda: suspect_tiff(40_000, 7, 2**30, 8),
    "two.tif": lambda: suspect_tiff(296, 3, 3, 8),
    "cut.tif": lambda: suspect_tiff(40_000, 7, 300, 200),
}


def test_pillow_warns_of_nothing_that_we_tell_ourselves(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(9460, 9460))
    for name, write in SUSPECT.items():
        (tmp_path / name).write_bytes(write())
    code = """
import sys
from harness.data import DataError, read_image
for name in sys.argv[1:]:
    try:
        read_image(name)
    except DataError as error:
        print(error)
"""
    names = [str(tmp_path / name) for name in ("bomb.png", *SUSPECT)]
    command = [sys.executable, "-W", "error", "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "has 9460x9460 pixels, more than" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_name_with_an_escape_sequence_is_written_out(tmp_path):
    assert "\x1b" not in refusal(tmp_path / "\x1b[2J.png", b"x", "read_image")


SEEDS = [
    saved(form, Image.fromarray(pixels), **options)
    for pixels in (RGB, GREY, GREY.astype(np.uint16) << 8)
    for form, options in [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        *[("BMP", {}), ("JPEG", {}), ("WEBP", {})][: 3 * (pixels.dtype == np.uint8)],
    ]
]


@settings(max_examples=300)
@given(
    data=st.sampled_from(SEEDS),
    where=st.floats(0, 1, exclude_max=True),
    change=st.sampled_from([b"", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"]),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_of_any_kind_is_one_line(tmp_path_factory, data, where, change):
    position = int(where * len(data))
    end = position + len(change) if change else len(data)
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(data[:position] + change + data[end:])
    shapes = set()
    for name, look in LOOKS.items():
        try:
            found = look(path)
        except DataError as error:
            assert str(error).isprintable()
        else:
            if name in ("read_image", "read_mask"):
                shapes.add(found.shape[:2])
    assert len(shapes) <= 1


def test_reading_needs_no_heavy_library():
    code = (
        "import harness.data, sys; print(sorted({'torch', 'hydra', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
