"""Atomic writes: the mode of a file follows the umask, however the file is written."""

import os
import stat

import pytest

from jaxft.core.files import replacing, write_once


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def mode(request):
    """Sets the umask during a test, and returns the mode of a new file."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def write_privately(path):
    """Writes a new file with mode 0600 in place of `path`, as safetensors does."""
    path.unlink()
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.write_bytes(b"content")


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(b"content"), write_privately], ids=["open", "private"])
def test_a_replaced_file_has_the_mode_of_the_umask(write, mode, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with replacing(path) as temporary:
        write(temporary)
    assert path.read_bytes() == b"content" and mode_of(path) == mode
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_written_once_has_the_mode_of_the_umask(mode, tmp_path):
    assert write_once(tmp_path / "file.bin", b"content")
    assert mode_of(tmp_path / "file.bin") == mode


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("full")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
