"""Reads are bounded, also where an archive lies about sizes, and only regular files are read."""

import gzip
import io
import os
import socket
import struct
import tracemalloc
import zipfile

import pytest

from jaxft.cli import main
from jaxft.core import reading
from jaxft.core.errors import UserError
from jaxft.core.reading import Unreadable, bound, bounded, check_expansion, read_entry, read_file, read_stream


class Endless(io.RawIOBase):
    """A stream without an end, which counts what is read."""

    num_read = 0

    def read(self, size=-1):
        assert 0 < size <= reading.CHUNK
        self.num_read += size
        return bytes(size)


def test_an_endless_stream_is_read_up_to_the_bound():
    stream = Endless()
    with pytest.raises(Unreadable, match=r"more than 3,000,000 bytes \(--max-bytes"):
        read_stream(stream, 3_000_000)
    assert stream.num_read == 3 * reading.CHUNK  # 2 x 1,048,576 are not too many


def test_the_bound_is_inclusive(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    assert read_file(tmp_path / "a", 1000) == bytes(1000)
    assert read_stream(io.BytesIO(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(Unreadable, match=r"1,000 bytes, more than 999"):
        read_file(tmp_path / "a", 999)
    with pytest.raises(Unreadable, match="more than 999"):
        read_stream(io.BytesIO(bytes(1000)), 999)


def test_the_option_sets_one_bound_for_all_kinds(monkeypatch):
    monkeypatch.delenv("JAXFT_MAX_BYTES", raising=False)
    with bounded("2e10"):
        assert bound(reading.TEXT_BYTES) == bound(reading.FILE_BYTES) == 20_000_000_000
        assert os.environ["JAXFT_MAX_BYTES"] == "2e10"  # worker processes inherit it
    assert bound(5) == 5
    for text in ("many", "-1", "0.5", "nan", "inf", "1e999", ""):
        with pytest.raises(UserError, match="--max-bytes"), bounded(text):
            pass
    assert "JAXFT_MAX_BYTES" not in os.environ


def test_the_command_line_takes_the_bound(tmp_path, capsys):
    path = tmp_path / "set.npz"
    path.write_bytes(bytes(1001))
    assert main(["data", "check", str(path), "--max-bytes=1000"]) == 2
    assert "it has 1,001 bytes, more than 1,000 (--max-bytes" in capsys.readouterr().err
    assert main(["data", "check", str(path), "--max-bytes=x"]) == 2
    assert "--max-bytes (JAXFT_MAX_BYTES) is 'x'" in capsys.readouterr().err


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a path of a socket has at most 108 characters
        server.bind("socket")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("socket", "a socket"), ("link", "a device"), (".", "a folder")):
        with pytest.raises(Unreadable, match=f"it is {kind}, not a regular file"):
            read_file(tmp_path / name)
    with pytest.raises(Unreadable, match="does not exist"):
        read_file(tmp_path / "none")


def test_an_entry_that_lies_about_its_size_is_not_decompressed_whole():
    """The entry declares 100 bytes; `ZipFile.read` decompresses all 50 MB of it first."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(50_000_000))
    raw = content.getvalue().replace(struct.pack("<I", 50_000_000), struct.pack("<I", 100))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        tracemalloc.start()
        with pytest.raises(zipfile.BadZipFile, match="CRC"):
            read_entry(archive, archive.getinfo("a"))
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest < 5_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_without_bounded_pieces_is_refused(method):
    """bzip2 turns 45 bytes into 45 MB, and zipfile does not limit its output."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("a", b"abc")
        with pytest.raises(Unreadable, match="not deflate"):
            read_entry(archive, archive.getinfo("a"))


def test_an_archive_may_have_twenty_times_its_size_or_the_bound():
    check_expansion(1_000_000_000, 7000)
    check_expansion(40_000_000_000, 2_000_000_000)
    for num_bytes, file_bytes in ((1_000_000_001, 7000), (40_000_000_001, 2_000_000_000)):
        with pytest.raises(Unreadable, match="far more than the archive"):
            check_expansion(num_bytes, file_bytes)


def test_a_long_name_is_cut_in_a_message():
    message = str(UserError(f"the tensor {'x' * 70_000} is missing; download the file again."))
    assert len(message) == 1000
    assert message.startswith("the tensor xxx") and message.endswith("xxx is missing; download the file again.")


def test_gzip_is_read_in_pieces():
    stream = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(bytes(5_000_000))))
    with pytest.raises(Unreadable, match="more than 1,000,000"):
        read_stream(stream, 1_000_000)
