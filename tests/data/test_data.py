"""Image sets, splits and preprocessing."""

import dataclasses
import io
import itertools
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxft.config import Images
from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError
from jaxft.data import ImageSet, draw_split, load_images
from jaxft.data.readers import pictures
from jaxft.models import Preprocessing


def png(pixels):
    """Returns pixels (an array, or one gray value) as the bytes of a PNG file."""
    if isinstance(pixels, int):
        pixels = np.full((4, 4, 3), pixels, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_folder(path, files):
    """Writes {name: bytes} below `path` and returns it as text."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def write_zip(path, files):
    """Writes {name: bytes} into a zip archive and returns its path as text."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def write_npz(path, **arrays):
    """Writes arrays and returns the path as text."""
    np.savez(path, **arrays)
    return str(path)


PICTURES = {
    f"{name}/{i}.png": png(50 * label + i) for label, name in enumerate(("cat", "dog", "eel")) for i in range(4)
}


# --- digits -----------------------------------------------------------------------------------------------------


def test_digits_are_the_digits_of_uci():
    digits = load_images(Images(), None)
    assert digits.images.shape == (1797, 8, 8, 3) and digits.images.dtype == np.uint8
    assert digits.class_names == tuple("0123456789")
    # optdigits.names: the number of images of each class in optdigits.tes
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert set(digits.subsets) == {""} and len(set(digits.ids)) == 1797


def test_digits_have_their_17_gray_levels_spread_over_0_to_255():
    pixels = load_images(Images(), None).images
    # 255 / 16 = 15.94 a level
    levels = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(pixels).tolist() == levels
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    # the first row of optdigits' first image, a zero: 0 0 5 13 9 1 0 0
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


# --- arrays -----------------------------------------------------------------------------------------------------


def test_npz_of_gray_images_becomes_rgb(tmp_path):
    pixels = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
    found = load_images(Images(data=write_npz(tmp_path / "a.npz", images=pixels, labels=np.array([1, 0, 1, 0]))), None)
    assert (found.images == np.stack([pixels] * 3, axis=-1)).all()
    assert found.labels.tolist() == [1, 0, 1, 0] and found.labels.dtype == np.int32
    assert found.class_names == ("0", "1") and found.ids == ("/0", "/1", "/2", "/3")


def test_npz_with_one_channel_equals_gray(tmp_path):
    pixels, labels = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3), np.array([0, 1, 0, 1])
    gray = load_images(Images(data=write_npz(tmp_path / "a.npz", images=pixels, labels=labels)), None)
    channel = load_images(Images(data=write_npz(tmp_path / "b.npz", images=pixels[..., None], labels=labels)), None)
    assert (gray.images == channel.images).all()


def test_npz_with_splits_and_class_names(tmp_path):
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    path = write_npz(
        tmp_path / "a.npz",
        train_images=pixels[:3],
        train_labels=np.uint8([0, 1, 0]),
        test_images=pixels[3:],
        test_labels=np.uint8([1, 0]),
        class_names=np.array(["cat", "dog"]),
    )
    found = load_images(Images(data=path), None)
    assert (found.images == pixels).all()
    assert found.class_names == ("cat", "dog")
    assert found.subsets.tolist() == ["train"] * 3 + ["test"] * 2
    assert found.ids == ("train/0", "train/1", "train/2", "test/3", "test/4")


def test_arrays_keep_their_size_unless_another_is_requested(tmp_path):
    path = write_npz(tmp_path / "a.npz", images=np.zeros((2, 5, 7), np.uint8), labels=np.array([0, 1]))
    assert load_images(Images(data=path), None).images.shape == (2, 5, 5, 3)
    assert load_images(Images(data=path), 3).images.shape == (2, 3, 3, 3)


def test_a_fingerprint_depends_on_the_shape_of_arrays(tmp_path):
    pixels, labels = np.arange(2 * 4 * 16 * 3, dtype=np.uint8), np.array([0, 1])
    wide = load_images(Images(data=write_npz(tmp_path / "a.npz", images=pixels.reshape(2, 4, 16, 3), labels=labels)), 4)
    high = load_images(Images(data=write_npz(tmp_path / "b.npz", images=pixels.reshape(2, 16, 4, 3), labels=labels)), 4)
    assert not (wide.images == high.images).all()
    assert wide.fingerprint != high.fingerprint


@pytest.mark.parametrize("change", ["images", "labels", "class_names", "part", "size_px", "classes"])
def test_a_fingerprint_changes_with_everything_that_it_covers(tmp_path, change):
    arrays = {
        "images": np.arange(6 * 9, dtype=np.uint8).reshape(6, 3, 3),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "class_names": np.array(["a", "b", "c"]),
    }
    before = load_images(Images(data=write_npz(tmp_path / "a.npz", **arrays)), 3).fingerprint
    spec, size_px = Images(data=str(tmp_path / "b.npz")), 3
    if change == "images":
        arrays["images"] = arrays["images"] + np.uint8(1)
    elif change == "labels":
        arrays["labels"] = arrays["labels"][::-1]
    elif change == "class_names":
        arrays["class_names"] = np.array(["a", "b", "d"])
    elif change == "part":
        arrays = {f"train_{name}" if name != "class_names" else name: array for name, array in arrays.items()}
    elif change == "size_px":
        size_px = 2
    else:
        spec = Images(data=spec.data, classes=("a", "b"))
    write_npz(tmp_path / "b.npz", **arrays)
    assert load_images(spec, size_px).fingerprint != before


def test_a_fingerprint_depends_on_the_content_and_not_on_the_path(tmp_path):
    arrays = {"images": np.zeros((2, 3, 3), np.uint8), "labels": np.array([0, 1])}
    first = load_images(Images(data=write_npz(tmp_path / "a.npz", **arrays)), None)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    assert load_images(Images(data=str(tmp_path / "b.npz")), None).fingerprint == first.fingerprint


GRAY = np.zeros((2, 3, 3), np.uint8)
TWO = np.array([0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": GRAY, "labels": TWO}, "has neither 'images' nor 'train_images'; its arrays are pixels, labels"),
        ({"images": GRAY.astype(np.float32), "labels": TWO}, "'images' is float32 [2, 3, 3]; it must be uint8"),
        ({"images": GRAY[0], "labels": TWO}, "'images' is uint8 [3, 3]; it must be uint8 [n, height, width (,"),
        ({"images": np.zeros((2, 3, 3, 4), np.uint8), "labels": TWO}, "'images' is uint8 [2, 3, 3, 4]"),
        ({"images": GRAY}, "'images' needs 'labels': one integer per image"),
        ({"images": GRAY, "labels": np.array([0.0, 1.0])}, "needs 'labels': one integer"),
        ({"images": GRAY, "labels": np.array([0, 1, 1])}, "'images' needs 'labels': one integer per image"),
        ({"images": GRAY[:0], "labels": TWO[:0]}, "contains no images"),
        (
            {"images": GRAY, "labels": np.array([-1, 1]), "class_names": np.array(["a", "b"])},
            "has labels from -1 to 1, but 2 class names; labels must",
        ),
        ({"images": GRAY, "labels": TWO, "class_names": np.array(["a"])}, "has labels from 0 to 1, but 1 class name;"),
        ({"images": GRAY, "labels": TWO * 0}, "has only one class, '0'"),
        ({"images": GRAY, "labels": TWO, "class_names": np.array("ab")}, "'class_names'"),
        ({"images": np.zeros((2, 0, 3), np.uint8), "labels": TWO}, "'images' is uint8 [2, 0, 3]"),
    ],
    ids=["no_images", "float", "one_image", "rgba", "no_labels", "float_labels", "labels_too_many", "empty", "negative",
         "too_few_names", "one_class", "names_no_list", "no_height"],
)  # fmt: skip
def test_wrong_arrays_are_one_sentence(tmp_path, arrays, message):
    with pytest.raises(UserError) as error:
        load_images(Images(data=write_npz(tmp_path / "bad.npz", **arrays)), None)
    assert message in str(error.value) and "bad.npz" in str(error.value)


def damaged_npz():
    """Returns the bytes of .npz files that cannot be read, by what is wrong with them."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((2, 64, 64), np.uint8), labels=TWO)
    whole = buffer.getvalue()
    array, objects = io.BytesIO(), io.BytesIO()
    np.save(array, GRAY)
    np.savez(objects, images=np.array([{}, {}]), labels=TWO)
    flipped = bytearray(whole)
    flipped[60:70] = b"\xff" * 10  # within the deflated stream of the first array
    return {
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "zero_bytes": b"",
        "text": b"hello",
        "an_npy": array.getvalue(),
        "pickled": objects.getvalue(),
    }


@pytest.mark.parametrize("kind", ["cut", "flipped", "zero_bytes", "text", "an_npy", "pickled"])
def test_a_damaged_npz_is_one_sentence(tmp_path, kind):
    path = tmp_path / "bad.npz"
    path.write_bytes(damaged_npz()[kind])
    with pytest.raises(UserError, match=r"bad\.npz' cannot be read as an \.npz file of plain arrays"):
        load_images(Images(data=str(path)), None)


# --- folders and zips of class folders --------------------------------------------------------------------------


def test_a_folder_of_class_folders(tmp_path):
    found = load_images(Images(data=write_folder(tmp_path, PICTURES)), 4)
    assert found.class_names == ("cat", "dog", "eel")
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.ids == tuple(PICTURES)
    assert found.images.shape == (12, 4, 4, 3) and found.images.dtype == np.uint8
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 50, 51, 52, 53, 100, 101, 102, 103]


def test_files_that_are_not_images_are_skipped(tmp_path):
    others = {"readme.txt": b"x", "cat/notes.md": b"x", "cat/.hidden.png": b"x", ".git/a/b.png": b"x", "__MACOSX/c/d.png": b"x"}  # fmt: skip  # noqa: E501
    plain = load_images(Images(data=write_folder(tmp_path / "a", PICTURES)), 4)
    mixed = load_images(Images(data=write_folder(tmp_path / "b", PICTURES | others)), 4)
    assert mixed.fingerprint == plain.fingerprint and mixed.ids == plain.ids


@pytest.mark.parametrize(
    ("folder", "part"), [("Validation", "val"), ("dev", "val"), ("valid", "val"), ("val", "val"), ("TEST", "test")]
)
def test_folders_determine_the_splits(tmp_path, folder, part):
    files = {f"training/{name}": content for name, content in PICTURES.items()}
    files |= {f"{folder}/dog/new.png": png(200)}
    found = load_images(Images(data=write_folder(tmp_path, files)), 4)
    assert found.class_names == ("cat", "dog", "eel")
    parts = dict(zip(found.ids, found.subsets))
    assert parts[f"{folder}/dog/new.png"] == part and parts["training/cat/0.png"] == "train"


def test_a_folder_around_everything_is_ignored(tmp_path):
    plain = load_images(Images(data=write_folder(tmp_path / "a", PICTURES)), 4)
    wrapped = {f"pets/v2/{name}": content for name, content in PICTURES.items()}
    found = load_images(Images(data=write_zip(tmp_path / "b.zip", wrapped)), 4)
    assert found.ids == plain.ids and found.fingerprint == plain.fingerprint


@pytest.mark.parametrize("names", [("cat", "dog"), ("cat", "cat-big"), ("Ä b", "a")], ids=["plain", "prefix", "odd"])
def test_a_zip_archive_equals_its_folder(tmp_path, names):
    files = {f"{name}/{i}.png": png(90 * label + i) for label, name in enumerate(names) for i in range(6)}
    folder = load_images(Images(data=write_folder(tmp_path / "folder", files)), 4)
    archive = load_images(Images(data=write_zip(tmp_path / "a.zip", dict(reversed(files.items())))), 4)
    assert archive.ids == folder.ids
    assert (archive.images == folder.images).all() and (archive.labels == folder.labels).all()
    assert archive.fingerprint == folder.fingerprint
    assert (
        draw_split(archive, 0, Images(train_per_class=2, val_per_class=1), "target").digest
        == draw_split(folder, 0, Images(train_per_class=2, val_per_class=1), "target").digest
    )


def test_a_changed_image_changes_the_fingerprint(tmp_path):
    before = load_images(Images(data=write_folder(tmp_path, PICTURES)), 4)
    (tmp_path / "dog/1.png").write_bytes(png(255))
    after = load_images(Images(data=str(tmp_path)), 4)
    assert after.fingerprint != before.fingerprint
    assert np.flatnonzero((after.images != before.images).any((1, 2, 3))).tolist() == [5]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "contains no images"),
        ({"cat/a.txt": b"x"}, "contains no images"),
        ({"cat/a.png": png(1)}, "has only one class, 'cat'"),
        (
            {"a.png": png(1), "cat/a.png": png(1)},
            "has 1 image in no class folder, such as 'a.png', and 1 image in folders",
        ),
        (
            {"cat/a.png": png(1), "x/dog/a.png": png(1)},
            "has the image 'x/dog/a.png' outside of the layout class/image of 1 of its 2 images",
        ),
        ({"cat/a.png": b"hello", "dog/b.png": png(1)}, "has 1 unusable image: 'cat/a.png' ("),
        ({"cat/a.png": b"", "dog/b.png": b""}, "has 2 unusable images: 'cat/a.png' ("),
        ({f"{c}/{i}.png": b"" for c in "ab" for i in range(4)}, " and 5 more;"),
    ],
    ids=["empty", "no_pictures", "one_class", "top_level", "two_depths", "text", "zero_bytes", "many"],
)
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_wrong_folder_or_zip_is_one_sentence(tmp_path, files, message, write):
    (tmp_path / "bad").mkdir()
    with pytest.raises(UserError) as error:
        load_images(Images(data=write(tmp_path / "bad" if write is write_folder else tmp_path / "bad.zip", files)), 4)
    assert message in str(error.value) and "bad" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'.*nowhere' does not exist; allowed: 'digits', tfds:NAME, an \.npz file"):
        load_images(Images(data=str(tmp_path / "nowhere")), None)


def test_a_file_of_unknown_format_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"a\.tar' has no known image format; allowed: .*, zip or tar archive"):
        load_images(Images(data=str(tmp_path / "a.tar")), None)


@pytest.mark.parametrize(
    ("at", "value"), [(8, 99), (6, 1), (0, 0)], ids=["unknown_compression", "encrypted", "bad_directory"]
)
def test_a_zip_that_cannot_be_read_is_one_sentence(tmp_path, at, value):
    path = tmp_path / "bad.zip"
    write_zip(path, PICTURES)
    content = bytearray(path.read_bytes())
    directory = content.find(b"PK\x01\x02")  # its first entry; fields lie 2 bytes later than in the file's own header
    if at:
        content[at] = value
    content[directory + at + 2 * bool(at)] = value
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.zip'"):
        load_images(Images(data=str(path)), 4)


# --- decoding ---------------------------------------------------------------------------------------------------


def test_resizing_by_hand():
    # 8 x 4 pixels to 2: the shorter side halves, bilinear with antialiasing; the middle 2 of the 4 columns are kept.
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    whole = Image.fromarray(pixels).resize((4, 2), Image.Resampling.BILINEAR)
    assert (pictures.decode(png(pixels), 2) == np.asarray(whole)[:, 1:3]).all()


def test_the_center_is_cropped():
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[..., 0] = np.arange(10)
    assert pictures.decode(png(pixels), 4)[0, :, 0].tolist() == [3, 4, 5, 6]
    assert pictures.decode(png(pixels.transpose(1, 0, 2)), 4)[:, 0, 0].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (1, 9), (8, 8), (5, 6)])
def test_every_image_becomes_square(shape, size):
    assert pictures.decode(png(np.full((*shape, 3), 77, np.uint8)), size).tolist() == [[[77] * 3] * size] * size


def test_exif_rotation_is_applied():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2] = 255  # left half white
    picture, exif, buffer = Image.fromarray(pixels), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise to see it upright
    picture.save(buffer, "png", exif=exif)
    upright = pictures.decode(buffer.getvalue(), 4)[..., 0]
    assert upright.tolist() == [[255] * 4] * 2 + [[0] * 4] * 2  # the left is on top now


def test_palettes_and_other_modes_become_rgb():
    red, buffer = Image.new("RGB", (2, 2), (250, 10, 20)), {}
    for mode in ("P", "RGBA", "CMYK", "L", "1"):
        buffer[mode] = io.BytesIO()
        red.convert(mode).save(buffer[mode], "tiff")
    found = {mode: pictures.decode(content.getvalue(), 2)[0, 0].tolist() for mode, content in buffer.items()}
    luma = round(0.299 * 250 + 0.587 * 10 + 0.114 * 20)  # ITU-R 601
    assert found["RGBA"] == found["CMYK"] == [250, 10, 20]
    assert found["L"] == [luma] * 3
    assert np.abs(np.subtract(found["P"], (250, 10, 20))).max() <= 26  # the web palette has steps of 51
    assert found["1"] in ([0] * 3, [255] * 3)


def test_an_exact_palette_keeps_its_colors():
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 12, 34, 56])
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    assert pictures.decode(buffer.getvalue(), 2).tolist() == [[[12, 34, 56]] * 2] * 2


def test_16_bit_gray_is_scaled_and_not_clipped():
    gray = np.array([[0, 0x4000], [0x8000, 0xFFFF]], np.uint16)
    assert np.abs(pictures.decode(png(gray), 2)[..., 0] - np.array([[0.0, 64], [128, 255]])).max() <= 1


def test_jpeg_agrees_with_pillow():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "jpeg")
    assert (pictures.decode(buffer.getvalue(), 8) == np.asarray(Image.open(buffer))).all()


def test_reading_in_threads_keeps_the_warning_filters(tmp_path, monkeypatch):
    # `warnings.catch_warnings` is of the whole process: two threads that enter it, and leave it in the order in which
    # they came, put back each other's filters.
    both_in, first_out, calls = threading.Event(), threading.Event(), itertools.count()
    opened, decoded, before = Image.open, pictures.decode, list(warnings.filters)

    def open_in_step(content, formats):
        if next(calls) == 0:
            both_in.wait(2)
        else:
            both_in.set()
            first_out.wait(2)
        return opened(content, formats=formats)

    def decode_in_step(content, size):
        pixels = decoded(content, size)
        first_out.set()
        return pixels

    monkeypatch.setattr(Image, "open", open_in_step)
    monkeypatch.setattr(pictures, "decode", decode_in_step)
    load_images(Images(data=write_folder(tmp_path, {"cat/0.png": png(1), "dog/0.png": png(2)})), 4)
    after = list(warnings.filters)
    warnings.filters[:] = before
    assert after == before


# --- classes ----------------------------------------------------------------------------------------------------


def test_a_class_subset_keeps_images_ids_and_order_and_relabels():
    everything = load_images(Images(), None)
    some = load_images(Images(classes=("7", "2", "9")), None)
    assert some.class_names == ("2", "7", "9")  # in the data set's order, not the config's
    rows = np.flatnonzero(np.isin(everything.labels, [2, 7, 9]))
    assert (some.images == everything.images[rows]).all()
    assert some.ids == tuple(everything.ids[row] for row in rows)
    assert [some.class_names[label] for label in some.labels] == [str(everything.labels[row]) for row in rows]


def test_an_unknown_class_is_named(tmp_path):
    data = write_folder(tmp_path, PICTURES)
    with pytest.raises(
        UserError, match=r"has no class 'dgo' \(did you mean 'dog'\?\); its 3 classes are cat, dog, eel\."
    ):
        load_images(Images(data=data, classes=("cat", "dgo")), 4)


def test_a_single_selected_class_is_an_error():
    with pytest.raises(UserError, match=r"'classes' of 'digits' is \['3'\]; name at least two"):
        load_images(Images(classes=("3",)), None)


# --- the cache --------------------------------------------------------------------------------------------------


def cached_files():
    return sorted(cache_dir().rglob("*.npy"))


def no_decoding(content, size):
    raise OSError("decoded again")


def test_images_are_decoded_once(tmp_path, monkeypatch):
    data = write_folder(tmp_path, PICTURES)
    first = load_images(Images(data=data), 4)
    monkeypatch.setattr(pictures, "decode", no_decoding)
    second = load_images(Images(data=data), 4)
    assert (second.images == first.images).all() and second.fingerprint == first.fingerprint
    with pytest.raises(UserError, match="decoded again"):  # another size has a separate entry
        load_images(Images(data=data), 3)


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut"])
def test_a_damaged_cache_is_decoded_again(tmp_path, content):
    data = write_folder(tmp_path, PICTURES)
    first = load_images(Images(data=data), 4)
    pixels = np.array(first.images)
    (cached,) = cached_files()
    whole = cached.read_bytes()
    cached.unlink()
    cached.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert (load_images(Images(data=data), 4).images == pixels).all()
    assert cached.read_bytes() == whole


def test_a_read_only_cache_is_not_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_images(Images(data=write_folder(tmp_path / "pets", PICTURES)), 4).images) == 12


# --- splits -----------------------------------------------------------------------------------------------------


def image_set(counts, parts=None):
    """Returns an image set of 1x1 images: counts[label] images of each class, or of each (part, class)."""
    labels, where, ids = [], [], []
    for part, of_subset in (parts or {"": counts}).items():
        for label, count in enumerate(of_subset):
            labels += [label] * count
            where += [part] * count
            ids += [f"{part}/{label}/{i}" for i in range(count)]
    n, num_classes = len(labels), len(next(iter((parts or {"": counts}).values())))
    names = tuple(f"class{label}" for label in range(num_classes))
    images = np.zeros((n, 1, 1, 3), np.uint8)
    return ImageSet(images, np.array(labels, np.int32), names, tuple(ids), np.array(where), "fingerprint")


def per_class(images, rows):
    return np.bincount(images.labels[rows], minlength=len(images.class_names)).tolist()


COUNTS = st.lists(st.integers(8, 20), min_size=2, max_size=4)
SEEDS = st.integers(0, 2**32)


@given(COUNTS, SEEDS, st.integers(1, 5), st.integers(0, 3))
def test_a_split_has_exact_counts_and_covers_everything_once(counts, seed, train, val):
    images = image_set(counts)
    split = draw_split(images, seed, Images(train_per_class=train, val_per_class=val), "target")
    assert per_class(images, split.train) == [train] * len(counts)
    assert per_class(images, split.val) == [val] * len(counts)
    assert per_class(images, split.test) == [count - train - val for count in counts]
    assert sorted([*split.train, *split.val, *split.test]) == list(range(sum(counts)))
    for rows in (split.train, split.val, split.test):
        assert rows.dtype == np.int32 and (np.diff(rows) > 0).all()


@given(COUNTS, SEEDS, st.integers(1, 4), st.integers(0, 3))
def test_draws_of_one_seed_are_nested(counts, seed, train, val):
    images = image_set(counts)
    small = draw_split(images, seed, Images(train_per_class=train, val_per_class=val), "target")
    large = draw_split(images, seed, Images(train_per_class=train + 1, val_per_class=val), "target")
    assert set(small.train) < set(large.train)
    assert (small.val == large.val).all()
    assert set(large.test) < set(small.test)


@given(COUNTS, SEEDS)
def test_without_a_number_all_remaining_images_are_used(counts, seed):
    images = image_set(counts)
    split = draw_split(images, seed, Images(train_per_class=None, val_per_class=2), "target")
    assert per_class(images, split.train) == [count - 2 for count in counts]
    assert len(split.test) == 0


@given(SEEDS, st.integers(1, 6), st.integers(0, 2))
def test_the_test_split_of_the_data_is_used_completely(seed, train, val):
    images = image_set(None, {"train": [8, 9], "test": [3, 2]})
    split = draw_split(images, seed, Images(train_per_class=train, val_per_class=val), "target")
    assert split.test.tolist() == [17, 18, 19, 20, 21]
    assert per_class(images, split.train) == [train] * 2 and per_class(images, split.val) == [val] * 2
    assert set(images.subsets[split.train]) | set(images.subsets[split.val]) == {"train"}
    assert not set(split.train) & set(split.val)


@given(SEEDS, st.integers(0, 4))
def test_validation_images_come_from_the_validation_split_of_the_data(seed, val):
    images = image_set(None, {"train": [8, 9], "val": [4, 5], "test": [3, 2]})
    split = draw_split(images, seed, Images(train_per_class=None, val_per_class=val), "target")
    assert split.train.tolist() == list(range(17))
    assert per_class(images, split.val) == [val] * 2 and set(images.subsets[split.val]) <= {"val"}
    assert split.test.tolist() == [26, 27, 28, 29, 30]


def test_a_validation_split_without_a_test_split_is_the_test_split():
    images = image_set(None, {"train": [8, 9], "val": [4, 5]})
    split = draw_split(images, 0, Images(train_per_class=3, val_per_class=2), "target")
    assert set(images.subsets[split.test]) == {"val"} and len(split.test) == 9
    assert set(images.subsets[split.val]) == {"train"}


def test_seeds_have_different_draws_and_digests():
    images = image_set([20, 20])
    splits = [draw_split(images, seed, Images(train_per_class=5, val_per_class=2), "target") for seed in range(20)]
    assert len({split.digest for split in splits}) == 20
    assert len({tuple(split.train) for split in splits}) == 20


def test_every_image_is_drawn_equally_often():
    images = image_set([10, 10])
    drawn = np.bincount(
        np.concatenate(
            [draw_split(images, s, Images(train_per_class=5, val_per_class=0), "target").train for s in range(400)]
        ),
        minlength=20,
    )
    # 400 draws of half of the images: 200 each, standard deviation 10
    assert np.abs(drawn - 200).max() < 50


def test_a_split_does_not_depend_on_unselected_classes():
    everything, some = load_images(Images(), None), load_images(Images(classes=("3", "8")), None)

    def drawn(images):
        rows = draw_split(images, 5, Images(train_per_class=10, val_per_class=2), "target").train
        return {images.ids[row] for row in rows if images.class_names[images.labels[row]] in ("3", "8")}

    assert drawn(everything) == drawn(some)


def test_a_split_is_the_same_in_another_process():
    code = (
        "from jaxft.config import Images; from jaxft.data import draw_split, load_images;"
        "spec = Images(train_per_class=10, val_per_class=5);"
        "print(draw_split(load_images(Images(), None), 3, spec, 'target').digest)"
    )
    env = os.environ | {"PYTHONHASHSEED": "99"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert (
        other.stdout.strip()
        == draw_split(load_images(Images(), None), 3, Images(train_per_class=10, val_per_class=5), "target").digest
    )


@pytest.mark.parametrize(
    ("parts", "train", "val", "message"),
    [
        ({"": [9, 6]}, 5, 2, "class 'class1' has 6 images available, but 'target' requests 7 (5 for training, 2 for"),
        ({"": [9, 6]}, None, 6, "class 'class1' has 6 images available, but 'target' requests 7"),
        ({"train": [9, 6], "test": [9, 9]}, 7, 0, "class 'class1' has 6 images available, but 'target' requests 7"),
        ({"train": [9, 9], "val": [1, 3], "test": [1, 1]}, 2, 2, "class 'class0' has 1 image available"),
        ({"train": [9, 0], "test": [1, 1]}, None, 0, "class 'class1' has 0 images available"),
    ],
)
def test_too_many_requested_images_is_one_sentence(parts, train, val, message):
    with pytest.raises(UserError) as error:
        draw_split(image_set(None, parts), 0, Images(train_per_class=train, val_per_class=val), "target")
    assert message in str(error.value)


def test_all_images_can_be_requested():
    split = draw_split(image_set([7, 7]), 0, Images(train_per_class=5, val_per_class=2), "target")
    assert (len(split.train), len(split.val), len(split.test)) == (10, 4, 0)


# --- preprocessing ----------------------------------------------------------------------------------------------


def test_preprocessing_by_hand():
    pixels = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)  # 0, 0.2 and 1
    out = Preprocessing(1, (0.5, 0.4, 0.2), (0.25, 0.1, 0.4)).apply(pixels)
    assert out.dtype == jnp.float32 and out.shape == (1, 1, 1, 3)
    # (0 - 0.5) / 0.25, (0.2 - 0.4) / 0.1, (1 - 0.2) / 0.4
    np.testing.assert_allclose(out[0, 0, 0], [-2.0, -2.0, 2.0], atol=1e-6)


def test_preprocessing_in_bgr_and_0_to_255_by_hand():
    pixels = jnp.asarray([[[10, 20, 30]]], jnp.uint8)
    out = Preprocessing(1, (104.0, 117.0, 123.0), (1.0, 1.0, 2.0), 255.0, "bgr").apply(pixels)
    # blue, green, red: 30 - 104, 20 - 117, (10 - 123) / 2
    np.testing.assert_allclose(out[0, 0], [-74.0, -97.0, -56.5], atol=1e-4)


def test_preprocessing_accepts_any_number_of_leading_axes():
    pixels = jnp.arange(2 * 3 * 4 * 4 * 3, dtype=jnp.uint8).reshape(2, 3, 4, 4, 3)
    preprocessing = Preprocessing(4, (0.5, 0.4, 0.2), (0.25, 0.1, 0.4))
    out = preprocessing.apply(pixels)
    np.testing.assert_array_equal(out[1, 2], preprocessing.apply(pixels[1, 2]))


# --- real data --------------------------------------------------------------------------------------------------


def test_intel_scenes_load_from_a_zip_archive(real_data):
    found = load_images(Images(data=str(real_data / "images/intel-scenes-6.zip")), 32)
    assert found.images.shape == (1800, 32, 32, 3)
    assert found.class_names == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    for part, count in (("train", 200), ("test", 100)):
        assert np.bincount(found.labels[found.subsets == part]).tolist() == [count] * 6
    with zipfile.ZipFile(real_data / "images/intel-scenes-6.zip") as archive:
        row = found.ids.index("test/buildings/20057.jpg")
        assert (found.images[row] == pictures.decode(archive.read("test/buildings/20057.jpg"), 32)).all()


def test_cifar10_loads_from_an_npz_file(real_data):
    path = Path(real_data) / "images/cifar10-lossless-5000.npz"
    found = load_images(Images(data=str(path)), None)
    assert found.images.shape == (5000, 32, 32, 3)
    assert found.class_names[0] == "airplane" and len(found.class_names) == 10
    assert [(found.subsets == part).sum() for part in ("train", "test")] == [4000, 1000]
    with np.load(path) as file:
        assert (found.images[4000:] == file["test_images"]).all()
        assert (found.labels[4000:] == file["test_labels"]).all()


# --- shares of classes ------------------------------------------------------------------------------------------


def test_fractions_of_each_class_are_held_out():
    """Of 10 and 20 images: 2 and 4 to test on; of the 8 and 16 left, 2 (1.6) and 3 (3.2) to select on."""
    images = image_set([10, 20])
    spec = Images(val_fraction=0.2, test_fraction=0.2)
    split = draw_split(images, 0, spec, "target")
    per_class = [np.bincount(images.labels[rows]).tolist() for rows in (split.train, split.val, split.test)]
    assert per_class == [[6, 13], [2, 3], [2, 4]]
    without = draw_split(images, 0, Images(test_fraction=0.2), "target")
    assert without.test.tolist() == split.test.tolist()
    assert sorted(without.train) == sorted([*split.train, *split.val])


def test_folds_use_every_image_for_validation_once():
    """Of 10 and 15 images a fifth is 2 and 3: five folds; the sixth begins again."""
    images = image_set([10, 15])
    folds = [draw_split(images, 0, Images(val_fraction=0.2), "target", k) for k in range(6)]
    assert sorted(np.concatenate([fold.val for fold in folds[:5]])) == list(range(25))
    assert all(sorted([*fold.train, *fold.val]) == list(range(25)) for fold in folds)
    assert folds[5].val.tolist() == folds[0].val.tolist()
    assert all(np.bincount(images.labels[fold.val]).tolist() == [2, 3] for fold in folds)


def test_folds_do_not_change_the_test_images():
    images = image_set([10, 20])
    spec = Images(val_fraction=0.2, test_fraction=0.2)
    splits = [draw_split(images, 0, spec, "target", k) for k in range(5)]
    assert len({tuple(split.test) for split in splits}) == 1 and len({tuple(split.val) for split in splits}) == 5


def test_untested_images_are_left_out_of_training():
    images = image_set([10, 20])
    spec = Images(val_fraction=0.2, test_fraction=0.2)
    usual, blind = (draw_split(images, 0, dataclasses.replace(spec, tested=tested), "") for tested in (True, False))
    assert len(usual.test) == 6 and not len(blind.test)
    assert usual.train.tolist() == blind.train.tolist() and usual.val.tolist() == blind.val.tolist()


def test_a_fraction_leaves_one_training_image():
    split = draw_split(image_set([3, 30]), 0, Images(val_fraction=0.9, test_fraction=0.3), "target")
    images = image_set([3, 30])
    assert np.bincount(images.labels[split.train]).tolist() == [1, 2]


def test_a_fraction_uses_the_validation_split_of_the_data_completely():
    images = image_set(None, {"train": [6, 6], "val": [3, 3], "test": [2, 2]})
    split = draw_split(images, 0, Images(val_fraction=0.2, test_fraction=0.2), "target")
    assert [len(rows) for rows in (split.train, split.val, split.test)] == [12, 6, 4]
    assert set(images.subsets[split.val]) == {"val"}
    whole = draw_split(images, 0, Images(test_fraction=0.2, train_on_val=True), "target")
    assert sorted(whole.train) == sorted([*split.train, *split.val]) and whole.test.tolist() == split.test.tolist()
