"""The cache of decoded images: resuming after kills, several processes, memory, damage, simplejpeg."""

import errno
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from data.test_data import png, write_folder
from helpers import RecordedEvents
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxft.config import Images
from jaxft.core import interrupts
from jaxft.core.cache import cache_dir
from jaxft.core.errors import UserError
from jaxft.core.events import ImagesDecoded, Waiting, Warned, ignore
from jaxft.data import load_images
from jaxft.data.readers import blocks, fast_jpeg, oddities, pictures
from jaxft.data.readers import decoded as module
from jaxft.data.readers.decoded import decoded
from jaxft.tracking.console import Progress


def image_of(number, size=4):
    """Returns an image that tells its number."""
    return np.full((size, size, 3), number % 251, np.uint8)


def make(count, one=image_of, size=4, emit=ignore):
    return decoded("f", count, size, one, "'them'", emit)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 10)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 35])
def test_images_are_in_order_and_read_only(count):
    images, bad = make(count)
    assert images.shape == (count, 4, 4, 3) and images[:, 0, 0, 0].tolist() == list(range(count)) and bad == {}
    assert isinstance(images, np.memmap) and not images.flags.writeable
    assert [path.name for path in (cache_dir() / "images").iterdir()] == ["f.npy"]
    assert (np.load(cache_dir() / "images" / "f.npy") == images).all()


@given(st.sets(st.integers(0, 24), max_size=25))
def test_undecodable_images_are_left_out_with_the_reason(bad):
    def one(number):
        if number in bad:
            raise ValueError(f"no {number}")
        return image_of(number)

    for path in (cache_dir() / "images").glob("*"):
        path.unlink()
    expected = [number for number in range(25) if number not in bad]
    for again in (False, True):
        images, told = make(25, image_of if again and expected else one)
        assert images[:, 0, 0, 0].tolist() == expected
        assert told == {number: f"no {number}" for number in bad}


def test_a_cached_image_is_not_decoded_again():
    made = Counter()

    def one(number):
        made[number] += 1
        return image_of(number)

    make(30, one)
    make(30, one)
    assert set(made.values()) == {1}


def test_progress_and_remaining_time_are_reported():
    recorded_events = RecordedEvents()
    make(25, emit=recorded_events)
    assert len(recorded_events) == 3 and recorded_events[0].seconds_left > 0
    assert recorded_events.lines[0].startswith("decoding 'them': 10 of 25, ") and recorded_events.lines[0].endswith(
        " left"
    )
    assert (
        recorded_events[-1] == ImagesDecoded("'them'", 25, 25, 0.0)
        and recorded_events.lines[-1] == "decoding 'them': 25 of 25, 0 s left"
    )


def test_a_stopped_process_resumes(monkeypatch):
    made, recorded_events = Counter(), []

    def one(number):
        made[number] += 1
        return image_of(number)

    def emit(event):
        recorded_events.append(event)
        if len(recorded_events) == 4:
            patch.setattr(interrupts, "check", stop)

    def stop():
        raise interrupts.Stopped

    with monkeypatch.context() as patch, pytest.raises(interrupts.Stopped):
        make(200, one, emit=emit)
    assert not (cache_dir() / "images" / "f.npy").exists()
    images, _ = make(200, one)
    assert images[:, 0, 0, 0].tolist() == list(range(200))
    assert all(made[number] == 1 for number in range(40))  # four blocks were kept
    assert sum(made.values()) < 400


@pytest.mark.parametrize("damage", ["pixels", "cut", "journal", "empty", "no_journal"])
def test_a_damaged_unfinished_file_is_decoded_again(damage):
    def fail(number):
        if number >= 30:
            raise KeyboardInterrupt
        return image_of(number)

    with pytest.raises(KeyboardInterrupt):
        make(50, fail)
    part, journal = cache_dir() / "images" / "f.part", cache_dir() / "images" / "f.journal"
    content = bytearray(part.read_bytes())
    if damage == "pixels":
        content[len(module._header(50, 4)) + 700] ^= 1
        part.write_bytes(content)
    elif damage == "cut":
        part.write_bytes(content[:-100])
    elif damage == "journal":
        journal.write_bytes(journal.read_bytes()[:-5] + b"\xff\n{")
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        journal.unlink()
    assert make(50)[0][:, 0, 0, 0].tolist() == list(range(50))


def flipped(content, place, bits=255):
    content = bytearray(content)
    content[place] ^= bits
    return bytes(content)


HEADER_BYTES = len(module._header(50, 4))
PIXELS = slice(HEADER_BYTES, HEADER_BYTES + 50 * 4 * 4 * 3)
DAMAGE = {
    "half of the bytes": lambda whole: bytes(255 - byte if i % 2 else byte for i, byte in enumerate(whole)),
    "half of the pixels": lambda whole: (
        whole[: PIXELS.start] + bytes(255 - byte for byte in whole[PIXELS][::2]) * 2 + whole[PIXELS.stop :]
    ),
    "a byte": lambda whole: flipped(whole, PIXELS.start + 1000, 1),
    "the number of images": lambda whole: whole.replace(b"(50, ", b"(40, "),
    "a checksum": lambda whole: flipped(whole, whole.rindex(b'"crc": ') + 8, 1),
    "the first line of the journal": lambda whole: flipped(whole, PIXELS.stop),
    "no journal": lambda whole: whole[: PIXELS.stop],
    "cut": lambda whole: whole[:-1500],
    "empty": lambda whole: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_decoded_again_with_a_warning(damage):
    bad = {7: "no 7", 33: "no 33"} if damage == "a byte" else {}

    def one(number):
        if number in bad:
            raise ValueError(bad[number])
        return image_of(number)

    first = make(50, one)[0].copy()
    path, recorded_events = cache_dir() / "images" / "f.npy", RecordedEvents()
    whole = path.read_bytes()
    damaged = DAMAGE[damage](whole)
    path.write_bytes(damaged)
    handle = path.open("rb")
    images, told = make(50, one, emit=recorded_events)
    assert (images == first).all() and told == bad and path.read_bytes() == whole
    (warning,) = [event.message for event in recorded_events.of(Warned)]
    assert "of the 50 images of 'them'" in warning and str(path) in warning and "decodes them again" in warning
    with handle:
        assert handle.read() == damaged, "what other processes have mapped stays as it is"
    assert (make(50, one, emit=lambda event: pytest.fail(event))[0] == first).all()


def test_only_damaged_blocks_are_decoded_again():
    make(50)
    path, made, recorded_events = cache_dir() / "images" / "f.npy", Counter(), RecordedEvents()
    path.write_bytes(flipped(flipped(path.read_bytes(), PIXELS.start), PIXELS.start + 25 * 48))

    def one(number):
        made[number] += 1
        return image_of(number)

    assert make(50, one, emit=recorded_events)[0][:, 0, 0, 0].tolist() == list(range(50))
    assert sorted(made) == [*range(10), *range(20, 30)]
    assert recorded_events.lines[0].startswith("warning: 20 of the 50 images of 'them' in ")


@given(st.integers(0, 2800), st.integers(1, 255))
def test_every_changed_byte_is_noticed(place, bits):
    path = cache_dir() / "images" / "f.npy"
    path.unlink(missing_ok=True)
    first = make(50)[0].copy()
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, place % len(whole), bits))
    images, bad = make(50)
    assert (images == first).all() and bad == {}


def test_a_file_without_checksums_is_decoded_again():
    path, recorded_events = cache_dir() / "images" / "f.npy", RecordedEvents()
    path.parent.mkdir()
    np.save(path, np.zeros((50, 4, 4, 3), np.uint8))
    assert make(50, emit=recorded_events)[0][:, 0, 0, 0].tolist() == list(range(50))
    assert recorded_events.lines[0].startswith("warning: 50 of the 50 images")


@pytest.mark.parametrize("listener", [(), (Progress(),)], ids=["nobody follows", "progress"])
def test_the_warning_reaches_standard_error(listener, tmp_path, capsys):
    data = write_folder(tmp_path, {f"{'ab'[i // 5]}/{i}.png": png(i) for i in range(10)})
    first = load_images(Images(data=data), 4).images.copy()
    (path,) = (cache_dir() / "images").glob("*.npy")
    path.write_bytes(flipped(path.read_bytes(), PIXELS.start))
    capsys.readouterr()
    assert (load_images(Images(data=data), 4, *listener).images == first).all()
    assert f"warning: 10 of the 10 images of {data!r} in {str(path)!r} do not match" in capsys.readouterr().err


def test_a_damaged_file_in_a_read_only_folder_is_not_used(monkeypatch):
    make(50)
    path, recorded_events = cache_dir() / "images" / "f.npy", RecordedEvents()
    path.write_bytes(flipped(path.read_bytes(), PIXELS.start))

    def refuse(path, wait=True):
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(module, "locked", refuse)
    assert make(50, emit=recorded_events)[0][:, 0, 0, 0].tolist() == list(range(50))
    assert recorded_events.lines[0].startswith("warning: 10 of the 50 images")


KILLED = """
import sys, time
import numpy as np
from jaxft.data.readers import blocks, decoded
from jaxft.tracking.lines import describe
blocks.BLOCK = 10
def one(number):
    time.sleep(0.002)
    return np.full((4, 4, 3), number % 251, np.uint8)
images, bad = decoded.decoded("f", 400, 4, one, "'them'", lambda event: print(describe(event), flush=True))
print(int(images.astype(int).sum()))
"""


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_killed_process_resumes(is_damaged):
    path = cache_dir() / "images" / "f.npy"
    if is_damaged:
        make(400)
        damaged = path.read_bytes().replace(b'"crc": ', b'"crc": 1')
        path.write_bytes(damaged)
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(5 + is_damaged):
            process.stdout.readline()
        process.kill()
    kept = len(path.with_suffix(".journal").read_text().splitlines())
    assert kept >= 4 and (path.read_bytes() == damaged if is_damaged else not path.exists())
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    if is_damaged:
        assert lines.pop(0).startswith("warning: 400 of the 400 images of 'them' in ")
    first = int(lines[0].split(": ")[1].split(" of")[0])
    assert first == 10 * (kept + 1)
    assert int(lines[-1]) == sum(number % 251 for number in range(400)) * 48


def test_two_processes_decode_once():
    made, recorded_events, results = Counter(), RecordedEvents(), []

    def one(number):
        made[number] += 1
        time.sleep(0.005)
        return image_of(number)

    def work():
        results.append(make(30, one, emit=recorded_events)[0].sum())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made.values()) == {1} and len(set(map(int, results))) == 1
    assert Waiting("another process that decodes 'them'") in recorded_events


def test_a_read_only_cache_is_an_error_for_large_image_sets(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "file" / "cache"))
    assert make(12)[0][:, 0, 0, 0].tolist() == list(range(12))
    monkeypatch.setattr(module, "MAX_UNCACHED_BYTES", 100)
    with pytest.raises(
        UserError, match=r"the decoded images of 'them' cannot be written to .*; free disk space there, or set"
    ):
        make(12)


def test_blocks_have_fewer_images_if_the_images_are_large(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 4 * 3 * 3)
    recorded_events = RecordedEvents()
    make(7, emit=recorded_events)
    assert len(recorded_events) == 3  # of three, three and one


def test_at_most_a_few_blocks_are_in_memory(monkeypatch):
    ahead = []

    def one(number):
        ahead.append(number)
        return image_of(number)

    for stop, _, _ in blocks.Blocks(500, 4, one, "them", ignore).decoded(0):
        assert max(ahead) < stop + 30


# --- arrays -----------------------------------------------------------------------------------------------------


def test_resized_arrays_are_cached(monkeypatch):
    first = load_images(Images(), 6)
    by_hand = Image.fromarray(load_images(Images(), None).images[5]).resize((6, 6), Image.Resampling.BILINEAR)
    assert (first.images[5] == np.asarray(by_hand)).all()
    monkeypatch.setattr("jaxft.data.readers.image_sets.fit", None)
    assert (load_images(Images(), 6).images == first.images).all()


# --- simplejpeg -------------------------------------------------------------------------------------------------


def jpeg(pixels, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg", **options)
    return content.getvalue()


@pytest.fixture
def simplejpeg():
    return pytest.importorskip("simplejpeg", reason="the extra 'jpeg' is not installed")


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(16, 16, 3), (33, 47, 3), (31, 8), (1, 1, 3)])
def test_simplejpeg_agrees_with_pillow(simplejpeg, monkeypatch, subsampling, progressive, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = jpeg(pixels, quality=70, subsampling=subsampling, progressive=progressive)
    with_it = pictures.decode(content, 16)
    monkeypatch.setattr(fast_jpeg, "simplejpeg", lambda: None)
    assert (pictures.decode(content, 16) == with_it).all()


def test_simplejpeg_agrees_with_pillow_on_real_images(simplejpeg, real_data, monkeypatch):
    import zipfile

    with zipfile.ZipFile(real_data / "images/caltech-101.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::40]
        contents = [archive.read(name) for name in names]
    with_it = [pictures.decode(content, 64) for content in contents]
    monkeypatch.setattr(fast_jpeg, "simplejpeg", lambda: None)
    assert all((pictures.decode(content, 64) == one).all() for content, one in zip(contents, with_it))


def test_pillow_decodes_images_that_simplejpeg_warns_about(simplejpeg):
    whole = jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), quality=90)
    content = whole[: len(whole) // 2] + whole[len(whole) // 2 + 60 :]  # which Pillow reads over
    as_pillow = np.asarray(Image.open(io.BytesIO(content)))
    assert (pictures.decode(content, 64) == as_pillow).all()
    assert oddities.damage(whole) == "" and "Corrupt JPEG data" in oddities.damage(content)


def test_simplejpeg_is_not_used_if_its_pixels_differ(simplejpeg, monkeypatch):
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **kwargs: decode(*args, **kwargs) // 2)
    fast_jpeg.simplejpeg.cache_clear()
    assert fast_jpeg.simplejpeg() is None
    monkeypatch.undo()
    fast_jpeg.simplejpeg.cache_clear()
    assert fast_jpeg.simplejpeg() is simplejpeg


# --- many pictures ----------------------------------------------------------------------------------------------


def test_a_folder_is_decoded_in_blocks_and_resumes(tmp_path, monkeypatch):
    files = {f"{'ab'[i // 20]}/{i:02}.png": png(i) for i in range(40)}
    data = write_folder(tmp_path, files)
    recorded_events = RecordedEvents()
    whole = load_images(Images(data=data), 4, recorded_events)
    assert recorded_events.lines[-1] == f"decoding {data!r}: 40 of 40, 0 s left"
    (kept,) = (cache_dir() / "images").glob("*.npy")
    content = kept.read_bytes()
    kept.unlink()

    def fail_late(content, size, decode=pictures.decode):
        pixels = decode(content, size)
        if pixels[0, 0, 0] >= 25:
            raise KeyboardInterrupt
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr("jaxft.data.readers.pictures.decode", fail_late)
        with pytest.raises(KeyboardInterrupt):
            load_images(Images(data=data), 4)
    journal = [json.loads(line) for line in kept.with_suffix(".journal").read_text().splitlines()]
    assert journal[0]["stop"] == 10 and journal[0]["bad"] == {}
    assert (load_images(Images(data=data), 4).images == whole.images).all()
    assert kept.read_bytes() == content
