"""`jaxft data check`: what is wrong with a set of images, and what is odd about it."""

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
    """Returns pixels that are smooth, as photographs are, and other for every seed."""
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


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


# By what the report is to say: how a picture with a seed of its own is made so.
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
    ("turned by Exif", "exif.jpg"): lambda i: saved(picture(i), "jpeg", **turned()),
    ("wrong suffix", "wrong.png"): lambda i: saved(picture(i), "jpeg"),
    ("several frames", "frames.gif"): lambda i: saved(
        Image.fromarray(picture(i)), "gif", save_all=True, append_images=[Image.fromarray(picture(i + 7))]
    ),
}


def found(report):
    """Returns the names under each kind of finding."""
    return {finding.kind: [name for name, _ in finding.items] for finding in report.findings}


def wild(each, classes=("cat", "dog")):
    """Returns files of every kind, `each` of them, and by kind the names that are to be found."""
    files, expected = {}, {}
    for number, ((kind, name), content) in enumerate(KINDS.items()):
        for i in range(each):
            place = f"{classes[i % 2]}/{i:03}-{name}"
            files[place] = content(1000 * number + i)
            expected.setdefault(kind, set()).add(place)
    return files, expected


def check_wild(tmp_path, each):
    files, expected = wild(each)
    files |= {f"{name}/good{i}.png": saved(picture(10**6 + i), "png") for i, name in enumerate(("cat", "dog"))}
    report = jaxft.check_data(write_folder(tmp_path / "wild", files), quiet=True)
    named = {kind: set(names) for kind, names in found(report).items()}
    assert {kind: expected[kind] - named.get(kind, set()) for kind in expected} == {kind: set() for kind in expected}
    # What is found beyond is odd in two ways, and nothing that is good is bad.
    assert named["cannot be read"] == expected["cannot be read"]
    assert report.num_pictures == len(files) and not report.is_clean
    return expected


def test_a_picture_of_every_kind_is_named(tmp_path):
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
def test_a_thousand_pictures_of_every_kind_are_named_in_bounded_memory(tmp_path):
    expected = check_wild(tmp_path, each=63)  # of 16 kinds
    # In a process of its own, which may not hang; numpy, scipy and Pillow alone take about 150 MB.
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "wild")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    code, peak_bytes = map(int, done.stderr.split()[-2:])
    findings = {finding["kind"]: finding["items"] for finding in json.loads(done.stdout)["findings"]}
    assert code == 1 and {item["name"] for item in findings["cannot be read"]} == expected["cannot be read"]
    assert peak_bytes < 500e6


def test_damage_that_pillow_reads_over(tmp_path):
    pytest.importorskip("simplejpeg", reason="the extra 'jpeg' is not installed")
    content = saved(NOISE.integers(0, 256, (64, 64, 3), np.uint8), "jpeg", quality=90)
    content = content[: len(content) // 2] + content[len(content) // 2 + 60 :]
    files = {"a/1.jpg": content, "a/2.jpg": saved(picture(1), "jpeg"), "b/1.jpg": saved(picture(2), "jpeg")}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"read, but damaged": ["a/1.jpg"]} and report.checks_damage
    cmyk = saved(Image.fromarray(picture(3)).convert("CMYK"), "jpeg")
    assert oddities.damage(cmyk) == ""


def test_without_simplejpeg_it_is_said_that_damage_was_not_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fast_jpeg, "simplejpeg", lambda: None)
    data = write_folder(tmp_path, {"a/1.png": png(picture(1)), "b/1.png": png(picture(2))})
    assert main(["data", "check", data]) == 0
    assert "was not looked for: pip install 'jaxft[jpeg]'" in capsys.readouterr().out


# --- classes and parts ------------------------------------------------------------------------------------------


def test_classes_that_are_spelt_in_two_ways_or_missing(tmp_path):
    names = ["train/Cat/1", "train/Cat/2", "train/cat/3", "train/dog/4", "test/Cat/5", "test/owl/6"]
    data = write_zip(tmp_path / "a.zip", {f"{name}.png": png(picture(i)) for i, name in enumerate(names)})
    report = jaxft.check_data(data, quiet=True)
    items = {finding.kind: list(finding.items) for finding in report.findings}
    assert items["a class spelled in several ways"] == [("cat", "1 pictures; elsewhere 'Cat', 3")]
    assert items["a class missing in a part"] == [
        ("cat", "in train, not in test"), ("dog", "in train, not in test"), ("owl", "in test, not in train"),
    ]  # fmt: skip
    assert report.classes == {"Cat": 3, "cat": 1, "dog": 1, "owl": 1} and report.subsets == {"train": 4, "test": 2}


def test_what_is_passed_over_is_noted(tmp_path):
    files = {"a/1.png": png(picture(1)), "b/1.png": png(picture(2)), "b/phone.heic": b"x", "b/.hidden.png": b"x"}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"passed over": ["b/phone.heic"]} and report.is_clean


# --- duplicates -------------------------------------------------------------------------------------------------


def test_duplicates_between_train_and_test(tmp_path):
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
    assert items["the same picture in two parts"] == [
        ("test/a/same.png", "is train/a/1.png"), ("test/b/of_a.png", "is train/a/2.png"),
    ]  # fmt: skip
    assert items["the same picture in two classes"] == [("test/b/of_a.png", "'b'; it is train/a/2.png of 'a'")]
    assert items["the same picture twice in a part"] == [("train/b/again.png", "is train/b/3.png")]
    ((name, what),) = items["nearly the same picture in two parts"]
    assert name == "test/a/small.jpg" and what.startswith("is nearly train/a/1.png (")


def test_where_there_are_no_parts_duplicates_may_come_apart(tmp_path):
    files = {"a/1.png": saved(picture(1), "png"), "a/2.png": saved(picture(1), "png"), "b/3.png": png(picture(2))}
    report = jaxft.check_data(write_folder(tmp_path, files), quiet=True)
    assert found(report) == {"the same picture twice": ["a/2.png"]}


def test_arrays_are_checked_too(tmp_path):
    pixels = np.stack([picture(i, (24, 24)) for i in (1, 2, 3, 1)])
    np.savez(
        tmp_path / "a.npz", train_images=pixels[:3], train_labels=[0, 1, 1], test_images=pixels[3:], test_labels=[0]
    )
    report = jaxft.check_data(tmp_path / "a.npz", quiet=True)
    assert found(report)["the same picture in two parts"] == ["test/3"]


def test_the_hash_by_hand():
    gray = NOISE.integers(0, 256, (32, 32), np.uint8)
    low = dctn(gray.astype(float))[:8, :8].ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(gray) == int(bits, 2)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_near_pairs_are_those_that_comparing_all_finds(seed, n):
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


def test_flat_pictures_are_not_near_one_another():
    flat = np.full((5, 256), 200, np.uint8)
    assert near_pairs(np.zeros(5, np.uint64), flat, None) == []


@pytest.mark.slow
def test_real_pictures_have_few_near_duplicates(real_data):
    report = jaxft.check_data(real_data / "images/caltech-101.zip", quiet=True)
    names = found(report)["nearly the same picture in two parts"]
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
    assert lines[0] == f"{bad}: 23 pictures of 2 classes"
    assert "cannot be read         7  a/empty0.png: it is empty" in lines
    assert lines[-3].strip() == "and 2 more (--all)" and lines[-1] == "something is wrong with these images."
    assert main(["data", "check", bad, "--all"]) == 1
    assert "a/empty6.png: it is empty" in capsys.readouterr().out


def test_json(bad, capsys):
    assert main(["data", "check", bad, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 23 and report["classes"] == {"a": 15, "b": 8} and not report["clean"]
    (finding,) = report["findings"]
    assert finding["kind"] == "cannot be read" and finding["problem"] and len(finding["items"]) == 7
    assert finding["items"][0] == {"name": "a/empty0.png", "what": "it is empty"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "there are no images at 'nowhere'"),
        (["check", "digits", "--domain", "x"], "'digits' has no domain 'x'; it has none"),
        (["check", "digits", "--dir", "x"], "--dir is for `jaxft data prepare`"),
        (["prepare", "digits"], "'digits' needs no preparing; sets of TensorFlow Datasets do: tfds:NAME"),
        (["prepare", "tfds:x", "--json"], "--json is for `jaxft data check`, not for 'prepare'"),
        (["prepare", "tfds:X!"], "'tfds:X!' is no name of TFDS"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_sentence(words, message, capsys):
    assert main(["data", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
