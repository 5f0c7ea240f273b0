"""Inputs that would fill memory or never end are refused in one sentence, before they are read."""

import gzip
import io
import json
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

import jaxft
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.readers.image_sets import load_images
from jaxft.data.readers.pictures import decode
from jaxft.recipes.predict import find_pictures

IN_TWO_CLASSES = "identical in two classes"


def refused(path, match, most_bytes=30_000_000, most_seconds=5):
    """Asserts that an image set is refused with little time and memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(UserError, match=match) as refusal:
            load_images(Images(data=str(path)), 8)
        assert time.process_time() - start < most_seconds
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    message = str(refusal.value)
    assert len(message.splitlines()) == 1 and len(message) < 300 + 3 * len(str(path)), message


def gzipped_zeros(num_bytes, start=b""):
    """Returns gzip data of `start` and zeros, made from the repeated data of 1 MB."""
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", compresslevel=9) as file:
        file.write(start)
        for _ in range(num_bytes >> 20):
            file.write(bytes(1 << 20))
    return packer.getvalue()


@pytest.mark.parametrize("is_honest", [True, False])
def test_gzipped_idx_in_a_zip(tmp_path, is_honest):
    """A small archive that becomes gigabytes: refused by its header; if that lies, after the declared bytes."""
    num_images = (4 << 30) // 784 if is_honest else 10
    header = struct.pack(">HBB3I", 0, 8, 3, num_images, 28, 28)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train-images-idx3-ubyte.gz", gzipped_zeros(20 << 20, header))
        archive.writestr("train-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, num_images))
    if is_honest:
        refused(tmp_path / "set.zip", r"it has 4,294,966,\d+ bytes, more than 1,000,000,000 \(--max-bytes")
    else:
        refused(tmp_path / "set.zip", r"more than 7,840 values|values for the shape \[10, 28, 28\]")


def write_npz(path, shape, content=b"", dtype="|u1"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue() + content)
        archive.writestr("labels.npy", b"")
    return path


@pytest.mark.parametrize("shape", [(4 << 30, 1, 1), (3 << 50, 1, 1), (1 << 62, 1 << 62, 3), (10**400, 2, 2)])
def test_npz_arrays_of_gigabytes(tmp_path, shape):
    refused(write_npz(tmp_path / "set.npz", shape), r"bytes, more than 1,000,000,000 \(--max-bytes|'.* cannot be read")


def test_npz_names_of_gigabytes(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((1, 2, 2), np.uint8), labels=np.zeros(1, int))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<U1000000", "fortran_order": False, "shape": (1000,)})
        archive.writestr("class_names.npy", header.getvalue())
    refused(tmp_path / "set.npz", r"it has 4,000,000,000 bytes, more than 100,000,000 \(--max-bytes")


def test_other_arrays_of_an_npz_are_not_read(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 2, 2), np.uint8), labels=np.arange(4) % 2)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("meta.npy", b"no array")
    assert load_images(Images(data=str(tmp_path / "set.npz")), None).images.shape == (4, 2, 2, 3)


def test_a_metadata_line_of_500_megabytes(tmp_path):
    for name in ("metadata.jsonl", "metadata.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(500_000_000)  # sparse
        refused(tmp_path / name, r"it has 500,000,000 bytes, more than 100,000,000 \(--max-bytes")
    refused(tmp_path, r"it has 500,000,000 bytes, more than 100,000,000 \(--max-bytes")


def test_tables_of_too_many_cells(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({str(i): 1}) + "\n" for i in range(4_000)))
    refused(path, r"it has 128,000,000 bytes, more than 100,000,000")  # 4,000 x 4,000 cells of 8 bytes
    path = tmp_path / "t.csv"
    path.write_text(",".join(map(str, range(100_000))) + "\n1\n")
    refused(path, "it has 100,000 columns, more than 10,000")


def test_deeply_nested_json(tmp_path):
    for name in ("metadata.jsonl", "index.json"):
        (tmp_path / name).write_text('{"file": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
        refused(tmp_path / name, "cannot be read|has no known image format", most_seconds=10)


def test_zip_archives_that_expand(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"cat/{i}.png", bytes(1 << 20))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    (tmp_path / "b.zip").write_bytes(content.replace(struct.pack("<I", 1 << 20), struct.pack("<I", 400_000_000)))
    refused(tmp_path / "b.zip", r"more than 1,000,000,000 bytes, far more than the archive \(--max-bytes")
    (tmp_path / "c.zip").write_bytes(content.replace(struct.pack("<I", 1 << 20), struct.pack("<I", 1000)))
    refused(tmp_path / "c.zip", r"4 unusable images: 'cat/0.png' \(Bad CRC-32")


def test_a_compressed_tar_archive_that_expands(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFT_MAX_BYTES", "3e6")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("cat/a.png")
        info.size = 10_000_000
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    refused(tmp_path / "a.tar.gz", r"more than 3,000,000 bytes, far more than the archive")


@pytest.mark.parametrize("size", [-512, -1024, 100_000_000])
def test_tar_entries_of_a_damaged_size(tmp_path, size):
    """A negative size leads back to the same header."""
    info = tarfile.TarInfo("cat/a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(2048))
    refused(tmp_path / "a.tar", "cannot be read as a tar archive|the archive ends inside the file")


@pytest.mark.parametrize("size", [(1, 4_000_000), (4_000_000, 1)])
def test_a_line_of_pixels_is_decoded_in_its_own_memory(size, tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.full(size[::-1], 7, np.uint8)).save(content, "png")
    tracemalloc.start()
    assert np.array_equal(decode(content.getvalue(), 224), np.full((224, 224, 3), 7))
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "line.png").write_bytes(content.getvalue())
    report = jaxft.check_data(tmp_path, quiet=True)
    assert {finding.kind for finding in report.findings if finding.is_problem} == {"identical", IN_TWO_CLASSES}


def png_of(width, height):
    """Returns a PNG file that declares a size and has no pixels."""
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "png")
    raw = bytearray(content.getvalue())
    raw[16:24] = struct.pack(">II", width, height)
    import zlib

    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


def test_decompression_bombs(tmp_path):
    (tmp_path / "cat").mkdir()
    for i, side in enumerate((10_000, 50_000, 2**31 - 1)):
        (tmp_path / "cat" / f"{i}.png").write_bytes(png_of(side, side))
    refused(tmp_path, r"3 unusable images: .* 10000 x 10000 is more than 89,478,485 pixels|3 unusable images")


def test_files_that_are_not_regular(tmp_path):
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.csv")
    for path, kind in (("/dev/zero", "a device"), (tmp_path / "zero.npz", "a device"),
                       (tmp_path / "pipe.csv", "a named pipe")):  # fmt: skip
        refused(path, f"cannot be read: it is {kind}, not a regular file")
    folder = tmp_path / "set/cat"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "a.png")
    (folder / "b.png").symlink_to("/dev/zero")
    refused(tmp_path / "set", r"'cat/a.png' \(it is a named pipe, .*'cat/b.png' \(it is a device")
    ((_, read_zero), (_, read_pipe)) = find_pictures(["/dev/zero", tmp_path / "pipe.csv"])
    for read in (read_zero, read_pipe):
        with pytest.raises(ValueError, match="not a regular file"):
            read()


def test_links_that_lead_everywhere(tmp_path):
    """Twelve folders with links to each other have 12! paths."""
    for i in range(12):
        (tmp_path / f"{i}").mkdir()
        for j in range(12):
            (tmp_path / f"{i}" / f"{j}").symlink_to(tmp_path / f"{j}")
    refused(tmp_path, "more than 100 links lead to its folder")


def test_a_link_to_itself(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/loop").symlink_to(tmp_path / "cat/loop")
    (tmp_path / "cat/up").symlink_to(tmp_path)
    refused(tmp_path, "cannot be read as a folder: .*Too many levels|contains no images")


def test_parquet_cells_that_expand(tmp_path, monkeypatch):
    """A dictionary stores a value once for any number of rows."""
    import pyarrow as pa
    from pyarrow import parquet

    monkeypatch.setenv("JAXFT_MAX_BYTES", "5e7")
    table = pa.table({"image": pa.array([bytes(100_000)] * 1000), "label": pa.array(["a", "b"] * 500)})
    parquet.write_table(table, tmp_path / "set.parquet")
    assert (tmp_path / "set.parquet").stat().st_size < 300_000
    refused(tmp_path / "set.parquet", r"1,000 unusable images: .*\(it has [\d,]+ bytes, more than 50,000,000")
