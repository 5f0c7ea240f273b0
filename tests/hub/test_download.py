"""Downloads over a connection that works, breaks, stalls, redirects or has no such file; and onto a full disk."""

import errno
import os

import pytest
from hub.server import Files, serving

from jaxft.core.errors import Failure, UserError
from jaxft.hub import download as module
from jaxft.hub.download import download

URL = "https://example.org/weights/some.pth"


@pytest.fixture
def files(monkeypatch):
    served = Files({"example.org/weights/some.pth": os.urandom(300_000)})
    with serving(served) as address:
        monkeypatch.setenv("JAXFT_MIRROR", f"{address}/")
        yield served


def left_in(folder):
    return [path.name for path in folder.iterdir()]


def test_a_download_is_the_file_with_the_mode_of_the_umask(files, tmp_path):
    path = tmp_path / "some.pth"
    old = os.umask(0o027)
    try:
        download(URL, path)
    finally:
        os.umask(old)
    assert path.read_bytes() == files["example.org/weights/some.pth"]
    assert path.stat().st_mode & 0o777 == 0o640 and left_in(tmp_path) == ["some.pth"]


def test_a_redirect_is_followed(files, tmp_path):
    files.moved["example.org/weights/some.pth"] = "elsewhere"
    files["elsewhere"] = b"moved"
    download(URL, tmp_path / "some.pth")
    assert (tmp_path / "some.pth").read_bytes() == b"moved"


def test_nothing_is_kept_of_a_broken_download_and_the_next_one_is_whole(files, tmp_path):
    path = tmp_path / "some.pth"
    files.broken.add("example.org/weights/some.pth")
    with pytest.raises(Failure, match=r"cannot be downloaded \(the connection broke\); .* by hand to '.*some"):
        download(URL, path)
    assert left_in(tmp_path) == []
    files.broken.clear()
    download(URL, path)
    assert path.read_bytes() == files["example.org/weights/some.pth"]


def test_a_server_that_sends_nothing_is_left(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    files.silent.add("example.org/weights/some.pth")
    with pytest.raises(Failure, match=r"cannot be downloaded \(.*; try again later"):
        download(URL, tmp_path / "some.pth")
    assert left_in(tmp_path) == []


def test_a_file_that_is_not_there_and_a_server_that_is_not_there_are_told_apart(files, tmp_path, monkeypatch):
    with pytest.raises(Failure, match=r"other\.pth cannot be downloaded \(the server answers 404 Not Found\)"):
        download("https://example.org/other.pth", tmp_path / "other.pth")
    monkeypatch.setenv("JAXFT_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(Failure, match=r"\(there is no connection to the server\)"):
        download(URL, tmp_path / "some.pth")
    assert left_in(tmp_path) == []


def test_a_full_disk_is_named_and_nothing_is_kept(files, tmp_path, monkeypatch):
    def full(self, url, output_file, pooch, check_only=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", full)
    with pytest.raises(UserError, match="no space is left on the device"):
        download(URL, tmp_path / "some.pth")
    assert left_in(tmp_path) == []


def test_without_a_mirror_the_address_is_unchanged(monkeypatch):
    monkeypatch.delenv("JAXFT_MIRROR", raising=False)
    assert module.address_of(URL) == URL
