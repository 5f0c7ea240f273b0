"""Decoding of odd images: Exif data, more than 8 bits, extreme aspect ratios, and any exception of a decoder."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from data.test_data import PICTURES, png, write_folder
from PIL import Image

import jaxft
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data import load_images
from jaxft.data.readers import pictures
from jaxft.data.readers.exif import orientation_of
from jaxft.data.readers.pictures import decode, fit

NOISE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
HALVES = np.repeat([[10], [200]], 8, axis=0)[..., None].repeat(16, 1).repeat(3, 2).astype(np.uint8)  # dark above bright


def jpeg(pixels, exif=None):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg", quality=95, **({} if exif is None else {"exif": exif}))
    return content.getvalue()


def exif_of(*tags):
    """Returns Exif data of (tag, type, count, value: 4 bytes), of whatever validity."""
    entries = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)


def orientation(value, kind=3):
    return (0x0112, kind, 1, struct.pack(">HH", value, 0))


# --- Exif -------------------------------------------------------------------------------------------------------

# By hand: where the top left pixel of the upright image is in the stored pixels (TIFF 6.0, section 8, 'Orientation').
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_all_orientations_become_upright(value, kind):
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = value
    Image.fromarray(NOISE).save(content, kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    upright = UPRIGHT[value](NOISE)
    assert (decode(content.getvalue(), 4) == fit(Image.fromarray(np.ascontiguousarray(upright)), 4)).all()


@pytest.mark.parametrize("tag", [orientation(0), orientation(9), orientation(65535), (0x0112, 2, 1, b"6\0\0\0")])
def test_invalid_orientations_are_ignored(tag):
    assert (decode(jpeg(HALVES, exif_of(tag)), 16) == decode(jpeg(HALVES), 16)).all()


@pytest.mark.parametrize(
    "exif",
    [
        exif_of(orientation(6), (0x8769, 4, 1, struct.pack(">I", 9_999_999))),  # a sub-directory after the end
        exif_of((0x010F, 2, 4_000_000_000, b"\xff\xff\xff\xff")),  # a text longer than the file
        exif_of((0x011A, 5, 1, b"\xff\xff\xff\xff")),
        b"Exif\0\0MM\0*\0\0",
        b"Exif\0\0garbage" * 3,
    ],
    ids=["subdirectory", "long_text", "rational", "cut", "garbage"],
)
def test_broken_exif_data_do_not_concern_the_pixels(exif):
    plain = decode(jpeg(HALVES), 16)
    turned = np.rot90(plain, -1)
    found = decode(jpeg(HALVES, exif), 16)
    assert np.abs(found.astype(int) - (turned if b"\x01\x12" in exif else plain)).max() <= 3


def test_exif_values_that_cannot_be_written_again_do_not_matter():
    # Pillow cannot serialize a short of 70,000 or a text in the place of a number; only the orientation is read.
    exif = Image.Exif()
    exif[0x0112] = 6
    content = jpeg(HALVES, exif)
    image = Image.open(io.BytesIO(content))
    image.getexif()[0x0128] = "odd"
    with pytest.raises(Exception):  # noqa: B017 - any class
        image.getexif().tobytes()
    assert orientation_of(image) == 6
    assert np.abs(decode(content, 16).astype(int) - np.rot90(decode(jpeg(HALVES), 16), -1)).max() <= 3


def test_no_exception_of_one_image_ends_the_command(tmp_path, monkeypatch):
    class Odd(Exception):
        pass

    make = pictures._pixels

    def odd(image, content):
        if content == bad:
            raise Odd("an odd tag")
        return make(image, content)

    bad = png(77)
    monkeypatch.setattr(pictures, "_pixels", odd)
    data = write_folder(tmp_path, PICTURES | {"cat/odd.png": bad})
    with pytest.raises(UserError, match=r"has 1 unusable image: 'cat/odd\.png' \(an odd tag\);"):
        load_images(Images(data=data), 4)
    report = jaxft.check_data(data, quiet=True)
    assert ("cat/odd.png", "an odd tag") in report.findings[0].items


# --- more than 8 bits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "values", "expected"),
    [
        (b"P5 2 2 1023\n", [0, 341, 682, 1023], [0, 85, 170, 255]),
        (b"P5 2 2 4095\n", [0, 1365, 2730, 4095], [0, 85, 170, 255]),
        (b"P5 2 2 65535\n", [0, 257, 25700, 65535], [0, 1, 100, 255]),
    ],
)
def test_gray_images_of_more_than_8_bits_are_scaled_by_their_maximum(header, values, expected):
    content = header + np.array(values, ">u2").tobytes()
    assert decode(content, 2)[..., 0].ravel().tolist() == expected
    text = header.replace(b"P5", b"P2") + " ".join(map(str, values)).encode()
    assert decode(text, 2)[..., 0].ravel().tolist() == expected


def test_other_maxima_of_ppm_files_by_hand():
    assert decode(b"P5 2 2 15\n" + bytes([0, 5, 10, 15]), 2)[..., 2].ravel().tolist() == [0, 85, 170, 255]
    color = np.array([[0, 341, 1023]] * 4, ">u2").tobytes()
    assert decode(b"P6 2 2 1023\n" + color, 2)[0, 0].tolist() == [0, 85, 255]


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_gray_files_are_scaled_by_257(kind):
    content = io.BytesIO()
    Image.fromarray(np.array([[0, 257], [25700, 65535]], np.uint16)).save(content, kind)
    assert decode(content.getvalue(), 2)[..., 1].ravel().tolist() == [0, 1, 100, 255]


def test_12_bit_gray_tiff_files_are_scaled_by_4095():
    pixels = [
        0x000,
        0x555,
        0xAAA,
        0xFFF,
    ]  # two pixels in three bytes: [a >> 4, a << 4 | b >> 8, b]; rows of three bytes
    packed = bytes([0x00, 0x05, 0x55, 0xAA, 0xAF, 0xFF])
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 2), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    assert decode(content, 2)[..., 0].ravel().tolist() == [round(value / 4095 * 255) for value in pixels]


def test_32_bit_images_have_no_fixed_range():
    content = io.BytesIO()
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(content, "tiff")
    with pytest.raises(ValueError, match="pixels of mode 'I' have no fixed range"):
        decode(content.getvalue(), 2)


# --- extreme aspect ratios --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 300), (300, 2), (3, 199), (1, 500), (7, 7)])
@pytest.mark.parametrize("size", [8, 15, 64])
def test_the_center_of_an_enlarged_image_is_that_of_pillow(shape, size, monkeypatch):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))
    whole = fit(image, size)
    monkeypatch.setattr(pictures, "MAX_RESIZED_PIXELS", 0)
    assert (fit(image, size) == whole).all()


@pytest.mark.parametrize("seed", range(40))
def test_both_ways_to_enlarge_agree(seed, monkeypatch):
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 60, 2)
    image, size = Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)), int(generator.integers(2, 90))
    whole = fit(image, size)
    monkeypatch.setattr(pictures, "MAX_RESIZED_PIXELS", 0)
    assert (fit(image, size) == whole).all()


MEASURED = """
import io, resource
import numpy as np
from PIL import Image
from jaxft.data.readers.pictures import decode
def memory():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def png(shape):
    content = io.BytesIO()
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(content, "png")
    return content.getvalue()
decode(png((300, 300)), 224)
before = memory()
for shape in ((2, 4000), (4000, 2)):
    decode(png(shape), 224)
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is in other units")
def test_memory_of_a_long_image():
    # Enlarged as a whole, the image has 448,000 x 224 pixels, which take 400 MB in Pillow.
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30 << 20
