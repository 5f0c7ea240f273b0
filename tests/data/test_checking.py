"""`jaxft data check`: problems and unusual properties of an image set."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from data.test_data import png, write_folder, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

import jaxft
from jaxft.cli import main
from jaxft.data import checking
from jaxft.data.checking import near_pairs, perceptual_hash
from jaxft.data.readers import fast_jpeg, oddities

NOISE = np.random.default_rng(0)


def picture(seed=0, shape=(40, 60, 3)):
    """Returns smooth pixels, as in photographs, that differ for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def saved(pixels, kind, **options):
    """Returns pixels, or an image, as the bytes of a file."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def bomb(side=20_000):
    """Returns a small PNG file that declares side x side black pixels of one bit."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))


def flip_in_png(content):
    content = bytearray(content)
    content[content.index(b"IDAT") + 30] ^= 0xFF
    return bytes(content)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


# Functions that create an image with an expected finding from a seed, by the kind of finding and the file name.
KINDS = {
    ("cannot be read", "truncated.png"): lambda i: saved(picture(i), "png")[:-40],
    ("cannot be read", "truncated.jpg"): lambda i: saved(picture(i), "jpeg")[: 300 + i % 90],
    ("cannot be read", "corrupt.png"): lambda i: flip_in_png(saved(picture(i), "png")),
    ("cannot be read", "zero.jpg"): lambda i: b"",
    ("cannot be read", "text.png"): lambda i: b"hello %d" % i,
    ("cannot be read", "bomb.png"): lambda i: bomb(20_000 + i),
    ("cannot be read", "float.tif"): lambda i: saved(Image.fromarray(picture(i)[..., 0].astype(np.float32)), "tiff"),
    ("gray", "gray.jpg"): lambda i: saved(picture(i)[..., 0], "jpeg"),
    ("gray", "deep.png"): lambda i: saved(picture(i)[..., 0].astype(np.uint16) * 257, "png"),
    ("16 bits", "deep2.png"): lambda i: saved(picture(i)[..., 1].astype(np.uint16) * 257, "png"),
    ("alpha", "alpha.png"): lambda i: saved(Image.fromarray(picture(i)).convert("RGBA"), "png"),
    ("palette", "palette.gif"): lambda i: saved(Image.fromarray(picture(i)).quantize(64), "gif"),
    ("CMYK", "cmyk.jpg"): lambda i: saved(Image.fromarray(picture(i)).convert("CMYK"), "jpeg"),
    ("rotated by Exif", "exif.jpg"): lambda i: saved(picture(i), "jpeg", **rotated()),
    ("wrong suffix", "wrong.png"): lambda i: saved(picture(i), "jpeg"),
    ("several frames", "frames.gif"): lambda i: saved(
        Image.fromarray(picture(i)), "gif", save_all=True, append_images=[Image.fromarray(picture(i + 7))]
    ),
}


def found(report):
    """Returns the names of the items of each kind of finding."""
    return {finding.kind: [name for name, _ in finding.items] for finding in report.findings}


def wild(each, classes=("cat", "dog")):
    """Returns `each` files of every kind, and the expected names by kind."""
    files, expected = {}, {}
    for number, ((kind, name), content) in enumerate(KINDS.items()):
        for i in range(each):
            path = f"{classes[i % 2]}/{i:03}-{name}"
            files[path] = content(1000 * number + i)
            expected.setdefault(kind, set()).add(path)
    return files, expected


def check_wild(tmp_path, each):
    files, expected = wild(each)
    files |= {f"{name}/good{i}.png": saved(picture(10**6 + i), "png") for i, name in enumerate(("cat", "dog"))}
    report = jaxft.check_data(write_folder(tmp_path / "wild", files), quiet=True)
    named = {kind: set(names) for kind, names in found(report).items()}
    assert {kind: expected[kind] - named.get(kind, set()) for kind in expected} == {kind: set() for kind in expected}
    # Some files have a second finding, but no good image is unreadable.
    assert named["cannot be read"] == expected["cannot be read"]
    assert report.num_pictures == len(files) and not report.is_clean
    return expected


def test_every_kind_of_finding_is_named(tmp_path):
    check_wild(tmp_path, each=2)


MEASURED = """
import re, sys
from pathlib import Path
from jaxft.cli import main
code = main(["data", "check", sys.argv[1], "--json"])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # rusage's begins at the parent's
print(code, 1024 * int(peak[1]), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_thousand_images_of_every_kind_are_checked_in_bounded_memory(tmp_path):
    expected = check_wild(tmp_path, each=63)  # of 16 kinds
    # A separate process, with a timeout; numpy, scipy and Pillow alone take about 150 MB.
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "wild")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    code, peak_bytes = map(int, done.stderr.split()[-2:])
    findings = {finding["kind"]: finding["items"] for finding in json.loads(done.stdout)["findings"]}
    assert code == 1 and {item["name"] for item in findings["cannot be read"]} == expected["cannot be read"]
    assert peak_bytes < 500e6


def test_damage_that_pillow_ignores_is_found(tmp_path):
    pytest.importorskip("simplejpeg", reason="the extra 'jpeg' is not installed")
    content = saved(NOISE.integers(0, 256, (64, 64, 3), np.uint8), "jpeg", quality=90)
    content = content[: len(content) // 2] + content[len(content) // 2 + 60 :]
    files = {"a/1.jpg": content, "a/2.jpg": saved(picture(1), "jpeg"), "b/1.jpg": saved(picture(2), "jpeg")}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"readable, but damaged": ["a/1.jpg"]} and report.checks_damage
    cmyk = saved(Image.fromarray(picture(3)).convert("CMYK"), "jpeg")
    assert oddities.damage(cmyk) == ""


def test_without_simplejpeg_the_report_says_that_damage_is_not_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fast_jpeg, "simplejpeg", lambda: None)
    data = write_folder(tmp_path, {"a/1.png": png(picture(1)), "b/1.png": png(picture(2))})
    assert main(["data", "check", data]) == 0
    assert "not checked: damage in JPEG files that can still be decoded" in capsys.readouterr().out


# --- classes and splits -----------------------------------------------------------------------------------------


def test_misspelled_and_missing_classes_are_found(tmp_path):
    names = ["train/Cat/1", "train/Cat/2", "train/cat/3", "train/dog/4", "test/Cat/5", "test/owl/6"]
    data = write_zip(tmp_path / "a.zip", {f"{name}.png": png(picture(i)) for i, name in enumerate(names)})
    report = jaxft.check_data(data, quiet=True)
    items = {finding.kind: list(finding.items) for finding in report.findings}
    assert items["class with several spellings"] == [("cat", "1 image; 'Cat' has 3")]
    assert items["class missing in a split"] == [
        ("cat", "in train, not in test"), ("dog", "in train, not in test"), ("owl", "in test, not in train"),
    ]  # fmt: skip
    assert report.classes == {"Cat": 3, "cat": 1, "dog": 1, "owl": 1} and report.subsets == {"train": 4, "test": 2}


def test_skipped_files_are_noted(tmp_path):
    files = {"a/1.png": png(picture(1)), "b/1.png": png(picture(2)), "b/phone.heic": b"x", "b/.hidden.png": b"x"}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"skipped file": ["b/phone.heic"]} and report.is_clean


# --- duplicates -------------------------------------------------------------------------------------------------


def test_duplicates_between_training_and_test_are_found(tmp_path):
    first = picture(1)
    small = np.asarray(Image.fromarray(first).resize((30, 20)))
    files = {
        "train/a/1.png": saved(first, "png"),
        "train/a/2.png": saved(picture(2), "png"),
        "train/b/3.png": saved(picture(3), "png"),
        "train/b/again.png": saved(picture(3), "png"),
        "test/a/same.png": saved(first, "png"),
        "test/a/small.jpg": saved(small, "jpeg", quality=60),
        "test/a/other.png": saved(picture(9), "png"),
        "test/b/of_a.png": saved(picture(2), "png"),
    }
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    items = {finding.kind: list(finding.items) for finding in report.findings}
    assert items["identical in two splits"] == [
        ("test/a/same.png", "same as train/a/1.png"), ("test/b/of_a.png", "same as train/a/2.png"),
    ]  # fmt: skip
    assert items["identical in two classes"] == [("test/b/of_a.png", "'b'; same as train/a/2.png of 'a'")]
    assert items["identical in one split"] == [("train/b/again.png", "same as train/b/3.png")]
    ((name, details),) = items["nearly identical in two splits"]
    assert name == "test/a/small.jpg" and details.startswith("nearly the same as train/a/1.png (")


def test_all_duplicates_are_problems_if_the_data_have_no_splits(tmp_path):
    files = {"a/1.png": saved(picture(1), "png"), "a/2.png": saved(picture(1), "png"), "b/3.png": png(picture(2))}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"identical": ["a/2.png"]}


def test_duplicate_arrays_are_found(tmp_path):
    pixels = np.stack([picture(i, (24, 24)) for i in (1, 2, 3, 1)])
    np.savez(
        tmp_path / "a.npz", train_images=pixels[:3], train_labels=[0, 1, 1], test_images=pixels[3:], test_labels=[0]
    )
    report = jaxft.check_data(tmp_path / "a.npz", quiet=True)
    assert found(report)["identical in two splits"] == ["test/3"]


def test_the_hash_by_hand():
    gray = NOISE.integers(0, 256, (32, 32), np.uint8)
    low = dctn(gray.astype(float))[:8, :8].ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(gray) == int(bits, 2)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_near_pairs_equal_a_comparison_of_all_pairs(seed, n):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 4, np.uint64)[rng.integers(0, 4, n)]
    for bit in rng.integers(0, 64, (3, n)):
        hashes = hashes ^ (np.uint64(1) << bit.astype(np.uint64))
    small = np.tile(rng.integers(0, 256, 256, np.uint8), (n, 1))
    parts = rng.choice(["train", "test"], n)
    for of_parts in (None, parts):
        expected = [
            (i, j, bits)
            for i in range(n)
            for j in range(i + 1, n)
            if (bits := (int(hashes[i]) ^ int(hashes[j])).bit_count()) <= checking.NEAR_BITS
            and (of_parts is None or parts[i] != parts[j])
        ]
        assert near_pairs(hashes, small, of_parts) == expected


def test_flat_images_are_not_near_duplicates():
    flat = np.full((5, 256), 200, np.uint8)
    assert near_pairs(np.zeros(5, np.uint64), flat, None) == []


@pytest.mark.slow
def test_real_images_have_few_near_duplicates(real_data):
    report = jaxft.check_data(real_data / "images/caltech-101.zip", quiet=True)
    names = found(report)["nearly identical in two splits"]
    assert "test/lotus/image_0015.jpg" in names and len(names) < 15
    assert jaxft.check_data(real_data / "images/pacs-7x4.zip", quiet=True).is_clean


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path):
    files = {f"{name}/{i}.png": png(picture(10 * k + i)) for k, name in enumerate("ab") for i in range(8)}
    return write_folder(tmp_path / "bad", files | {f"a/empty{i}.png": b"" for i in range(7)})


def test_the_table(bad, capsys):
    assert main(["data", "check", bad]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{bad}: 23 images of 2 classes"
    assert "cannot be read      7  a/empty0.png: the file is empty" in lines
    assert lines[-3].strip() == "and 2 more (--all)" and lines[-1] == "Problems found: see the first table."
    assert main(["data", "check", bad, "--all"]) == 1
    assert "a/empty6.png: the file is empty" in capsys.readouterr().out


def test_json(bad, capsys):
    assert main(["data", "check", bad, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 23 and report["classes"] == {"a": 15, "b": 8} and not report["clean"]
    (finding,) = report["findings"]
    assert finding["kind"] == "cannot be read" and finding["problem"] and len(finding["items"]) == 7
    assert finding["items"][0] == {"name": "a/empty0.png", "what": "the file is empty"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "'nowhere' does not exist; allowed: 'digits'"),
        (["check", "digits", "--domain", "x"], "'digits' has no domain 'x'; it has no domains"),
        (["check", "digits", "--dir", "x"], "--dir belongs to `jaxft data prepare`"),
        (
            ["prepare", "digits"],
            "'digits' cannot be prepared; `jaxft data prepare` takes a TensorFlow Dataset",
        ),
        (["prepare", "tfds:x", "--json"], "--json belongs to `jaxft data check`, not to `jaxft data prepare`"),
        (["prepare", "tfds:X!"], "'tfds:X!' is not a valid name; write tfds:NAME"),
    ],
)
def test_an_invalid_command_is_reported_in_one_sentence(words, message, capsys):
    assert main(["data", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
