"""Weights of timm and torchvision by name: in a data folder, the caches of their libraries, or at their address."""

import hashlib

import pytest
from hub.server import Files, serving

from jaxft.core.errors import Failure, UserError
from jaxft.hub import addresses
from jaxft.hub.data_folders import downloads_folder
from jaxft.hub.find import find_by_name
from jaxft.weights.published import find_file

CONTENT = b"weights of some network"
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]
VISION = f"download.pytorch.org/models/resnet18-{DIGITS}.pth"
TIMM = "huggingface.co/timm/resnet18.a1_in1k/resolve/main"


@pytest.fixture
def server(monkeypatch, tmp_path):
    files = Files({VISION: CONTENT, f"{TIMM}/config.json": b"{}", f"{TIMM}/model.safetensors": CONTENT})
    monkeypatch.setitem(addresses.TORCHVISION, "resnet18", f"resnet18-{DIGITS}.pth")
    for variable in ("JAXFT_DATA", "TORCH_HOME", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with serving(files) as address:
        monkeypatch.setenv("JAXFT_MIRROR", address)
        yield files


def test_weights_are_downloaded_at_their_first_use(server):
    path = find_file("torchvision/resnet18")
    assert path == downloads_folder() / f"torchvision/resnet18-{DIGITS}.pth" and path.read_bytes() == CONTENT
    path = find_file("timm/resnet18.a1_in1k")
    assert path == downloads_folder() / "timm/resnet18.a1_in1k/model.safetensors" and path.read_bytes() == CONTENT
    assert (path.parent / "config.json").read_bytes() == b"{}"
    assert find_file("timm/resnet18.a1_in1k") == path and len(server.asked) == 3


def test_a_download_with_another_sha256_than_its_name_is_refused_and_not_kept(server):
    server[VISION] = CONTENT + b"!"
    with pytest.raises(Failure, match=rf"{DIGITS}\.pth is damaged: its sha256 does not begin with {DIGITS}; try again"):
        find_by_name("torchvision/resnet18")
    assert not list((downloads_folder() / "torchvision").iterdir())


def test_an_error_without_a_connection_says_what_to_download_and_where_to_put_it(server, monkeypatch):
    monkeypatch.setenv("JAXFT_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(Failure) as error:
        find_by_name("timm/resnet18.a1_in1k")
    assert f"{TIMM}/config.json cannot be downloaded (there is no connection to the server)" in str(error.value)
    assert f"by hand to '{downloads_folder()}/timm/resnet18.a1_in1k/config.json'" in str(error.value)


def test_files_in_a_data_folder_and_in_the_caches_of_the_libraries_are_not_downloaded(server, monkeypatch, tmp_path):
    vision = tmp_path / f"caches/torch/hub/checkpoints/resnet18-{DIGITS}.pth"
    timm = tmp_path / "caches/huggingface/hub/models--timm--resnet18.a1_in1k/snapshots/0123/model.safetensors"
    mine = tmp_path / "mine/timm/resnet18.a1_in1k/model.safetensors"
    for path in (vision, timm, mine):
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        (path.parent / "config.json").write_bytes(b"{}")
    assert find_by_name("torchvision/resnet18") == vision
    assert find_by_name("timm/resnet18.a1_in1k") == timm
    monkeypatch.setenv("JAXFT_DATA", str(tmp_path / "mine"))
    assert find_by_name("timm/resnet18.a1_in1k") == mine and server.asked == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet81", r"no weights 'torchvision/resnet81' \(did you mean 'torchvision/resnet18'\?\)"),
        ("timm/resnet18", r"'timm/resnet18' does not name weights of timm; write timm/NAME\.TAG, such as"),
        ("timm/../../etc.passwd", "does not name weights of timm"),
        ("resnetsmall14.cifar10", r"`jaxft weights get resnetsmall14\.cifar10` downloads what is missing"),
        (
            "resnetsmall14.cifar",
            r"there is no weight file 'resnetsmall14\.cifar' \(did you mean 'resnetsmall14\.cifar10",
        ),
    ],
)
def test_a_name_that_is_not_known_is_an_error_of_one_sentence(name, message, server):
    with pytest.raises(UserError, match=message):
        find_file(name)
    assert server.asked == []


def test_a_file_of_the_user_comes_before_a_name(server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/resnet18").write_bytes(b"mine")
    assert find_file("torchvision/resnet18").read_bytes() == b"mine"
