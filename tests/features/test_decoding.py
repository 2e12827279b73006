"""Decoding by libspng: bit for bit what `read_image` makes of a file, damaged or not."""

from __future__ import annotations

import struct
import zlib
from itertools import starmap
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.data import DataError, read_image
from harness.features.inputs import decode, is_plain_png
from tests.features.pictures import SMOOTH, save

XMP = '<rdf:Description tiff:Orientation="6"/>'


def exif():
    data = Image.Exif()
    data[0x0112] = 6
    return data


def text(keyword, value):
    info = PngInfo()
    info.add_itxt(keyword, value) if keyword.startswith("XML") else info.add_text(keyword, value)
    return info


def chunk(kind, content):
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
    )


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(starmap(chunk, chunks))


def header(height, width, *, interlaced=False):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)


def scanlines(pixels):
    """The lines of a picture, each after the number of its filter: none."""
    return b"".join(b"\0" + line.tobytes() for line in pixels)


def adam7(pixels):
    """The seven passes of an interlaced PNG (PNG specification, section 8.2), those not empty."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
    passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::down, x::right] for y, x, down, right in passes]
    return b"".join(scanlines(part) for part in parts if part.size)


PIXELS = np.ascontiguousarray(SMOOTH[..., :3])
HEADER = header(*PIXELS.shape[:2])
IDAT = b"IDAT", zlib.compress(scanlines(PIXELS))
END = b"IEND", b""
PLAIN = png(HEADER, IDAT, END)
COMMENT = chunk(b"tEXt", b"Comment\0hello")


FILES = [
    ("rgb.png", "RGB", {}),
    ("grey.png", "L", {}),
    ("stored.png", "RGB", {"compress_level": 0}),
    ("best.png", "RGB", {"optimize": True}),
    ("alpha.png", "RGBA", {}),
    ("grey_alpha.png", "LA", {}),
    ("palette.png", "P", {}),
    ("clear_palette.png", "P", {"transparency": 3}),
    ("clear_grey.png", "L", {"transparency": 7}),
    ("clear_rgb.png", "RGB", {"transparency": (1, 2, 3)}),
    ("bits.png", "1", {}),
    ("deep.png", "I;16", {}),
    ("turned.png", "RGB", {"exif": exif()}),
    ("dpi.png", "RGB", {"dpi": (72, 72)}),
    ("profile.png", "RGB", {"icc_profile": b"some colours"}),
    ("comment.png", "RGB", {"pnginfo": text("Comment", "hello")}),
    ("turned_by_text.png", "RGB", {"pnginfo": text("XML:com.adobe.xmp", XMP)}),
    ("photo.jpg", "RGB", {"quality": 90}),
    ("turned.jpg", "RGB", {"exif": exif()}),
    ("grey.jpg", "L", {}),
    ("plain.bmp", "RGB", {}),
    ("grey.bmp", "L", {}),
    ("plain.tif", "RGB", {}),
    ("plain.webp", "RGB", {"lossless": True}),
    ("picture.jpg.png", "RGB", {"format": "JPEG"}),
]


@pytest.mark.parametrize(("name", "mode", "options"), FILES, ids=[file[0] for file in FILES])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_decoding_is_bit_identical_to_read_image(tmp_path, name, mode, options):
    path = save(tmp_path / name, mode, **options)
    np.testing.assert_array_equal(decode_file(path), read_image(path))


def decode_file(path):
    return decode(path.read_bytes(), path)


def outcome(read, path):
    """The pixels of a file, or the error that it is refused with."""
    try:
        return read(path)
    except DataError as error:
        return str(error)


def check_equal_outcomes(path):
    found, expected = outcome(decode_file, path), outcome(read_image, path)
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(61, 83), (1, 1), (3, 9), (8, 2)])
def test_an_interlaced_png_is_bit_identical(tmp_path, shape):
    pixels = PIXELS[: shape[0], : shape[1]]
    content = png(header(*shape, interlaced=True), (b"IDAT", zlib.compress(adam7(pixels))), END)
    assert is_plain_png(content)
    (tmp_path / "interlaced.png").write_bytes(content)
    np.testing.assert_array_equal(decode_file(tmp_path / "interlaced.png"), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "interlaced.png"), pixels)


def test_chunks_that_change_no_pixel_leave_the_fast_way_open(tmp_path):
    before = [(b"gAMA", struct.pack(">I", 100000)), (b"pHYs", bytes(9)), (b"tIME", bytes(7))]
    texts = [(b"tEXt", b"Comment\0hello"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")]
    content = png(HEADER, *before, IDAT, *texts, END)
    assert is_plain_png(content)
    (tmp_path / "annotated.png").write_bytes(content)
    np.testing.assert_array_equal(decode_file(tmp_path / "annotated.png"), PIXELS)


BROKEN = {
    "a wrong checksum of a text": PLAIN[:33] + COMMENT[:-1] + b"?" + PLAIN[33:],
    "a wrong checksum of the header": PLAIN[:32] + b"?" + PLAIN[33:],
    "a short gamma": png(HEADER, (b"gAMA", b"\0\1"), IDAT, END),
    "a short resolution": png(HEADER, (b"pHYs", bytes(5)), IDAT, END),
    "short chromaticities": png(HEADER, (b"cHRM", bytes(30)), IDAT, END),
    "no rendering intent": png(HEADER, (b"sRGB", b""), IDAT, END),
    "no end": png(HEADER, IDAT),
    "no pixels": png(HEADER, END),
    "a text between the pixels": png(
        HEADER, (b"IDAT", IDAT[1][:800]), (b"tEXt", b"a\0b"), (b"IDAT", IDAT[1][800:]), END
    ),
    "something after the end": PLAIN + b"and on",
    "an orientation in a text": png(HEADER, (b"tEXt", b"exif\0" + exif().tobytes()), IDAT, END),
    "a transparency in a text": png(HEADER, (b"tEXt", b"transparency\0x"), IDAT, END),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_odd_png_is_what_read_image_makes_of_it(tmp_path, name):
    (tmp_path / "broken.png").write_bytes(BROKEN[name])
    assert not is_plain_png(BROKEN[name])
    check_equal_outcomes(tmp_path / "broken.png")


@settings(max_examples=150)
@given(data=st.data())
def test_damage_of_any_kind_is_what_read_image_makes_of_it(tmp_path_factory, data):
    """Bits flipped, an end cut off; and pixels damaged within a chunk that is sound itself."""
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    kind = data.draw(st.sampled_from(["flip", "cut", "pixels", "length"]))
    content = bytearray(IDAT[1] if kind in ("pixels", "length") else PLAIN)
    position = data.draw(st.integers(0, len(content) - 1))
    if kind in ("cut", "length"):
        del content[position:]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    whole = (
        bytes(content) if kind in ("flip", "cut") else png(HEADER, (b"IDAT", bytes(content)), END)
    )
    path.write_bytes(whole)
    check_equal_outcomes(path)


def test_a_png_is_known_by_its_content(tmp_path, monkeypatch):
    (tmp_path / "7").write_bytes(PLAIN)
    monkeypatch.setattr("harness.features.inputs.image_of", None)
    np.testing.assert_array_equal(decode_file(tmp_path / "7"), PIXELS)


@pytest.mark.parametrize("name", ["rgb.png", "grey.png"])
def test_the_common_kinds_take_the_fast_way(tmp_path, name):
    mode = {"rgb.png": "RGB", "grey.png": "L"}[name]
    assert is_plain_png(save(tmp_path / name, mode).read_bytes())


@pytest.mark.parametrize(
    "name", ["alpha.png", "clear_rgb.png", "turned.png", "deep.png", "p.png", "by_text.png"]
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_the_others_do_not(tmp_path, name):
    modes = {"alpha.png": "RGBA", "deep.png": "I;16", "p.png": "P"}
    options = {"clear_rgb.png": {"transparency": (1, 2, 3)}, "turned.png": {"exif": exif()}}
    options["by_text.png"] = {"pnginfo": text("XML:com.adobe.xmp", XMP)}
    path = save(tmp_path / name, modes.get(name, "RGB"), **options.get(name, {}))
    assert not is_plain_png(path.read_bytes())


@pytest.mark.parametrize("keep", [0, 7, 20, 60, 400])
def test_a_cut_file_is_refused_as_read_image_refuses_it(tmp_path, keep):
    path = save(tmp_path / "cut.png", "RGB")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.png"):
        decode_file(path)
