"""Published files by name: each is made of the files at its addresses, to the byte, and is found by its name."""

import re
from pathlib import Path

import numpy as np
import pytest
from hub.origins import origins_of
from hub.server import Files, serving

from jaxft.cli import main
from jaxft.config import load_config
from jaxft.core.errors import Failure, UserError
from jaxft.hub.addresses import IMAGES, WEIGHTS
from jaxft.hub.data_folders import downloads_folder
from jaxft.models import published
from jaxft.recipes.get.run import get

CONFIGS = Path(__file__).parents[2] / "configs"
ARRAYS = ("cifar10-lossless-5000", "fashion-mnist-8000")  # kept without compression, so in other bytes


@pytest.fixture
def server(monkeypatch):
    files = Files()
    with serving(files) as address:
        monkeypatch.setenv("JAXFT_MIRROR", address)
        monkeypatch.delenv("JAXFT_DATA", raising=False)
        yield files


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WEIGHTS, *IMAGES])
def test_a_converted_download_is_the_published_file(name, server, real_data, tmp_path):
    kind = "weights" if name in WEIGHTS else "data"
    if WEIGHTS.get(name) and WEIGHTS[name].conversion == "keras":
        pytest.importorskip("h5py")
    server.update(origins_of(name, real_data, tmp_path))
    path = get(kind, name)
    reference = real_data / path.relative_to(downloads_folder())
    if name in ARRAYS:
        ours, theirs = np.load(path), np.load(reference)
        assert sorted(ours) == sorted(theirs)
        assert all(np.array_equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in theirs)
    else:
        assert path.read_bytes() == reference.read_bytes()
    assert len(server.asked) == len((WEIGHTS | IMAGES)[name].urls)
    assert get(kind, name) == path and len(server.asked) == len((WEIGHTS | IMAGES)[name].urls)
    assert [file for file in downloads_folder().rglob("*") if file.is_file()] == [path]


def test_every_published_weight_file_of_a_family_has_an_address():
    files = {file.file for file in published() if file.file.endswith(".safetensors")}
    assert files == {address.file.removeprefix("weights/") for address in WEIGHTS.values()}


def test_another_file_at_the_address_is_refused_and_not_kept(server, real_data, tmp_path):
    (content,) = origins_of("wrn16_1.cifar10", real_data, tmp_path).values()
    server[WEIGHTS["wrn10_1.cifar10"].urls[0].removeprefix("https://")] = content
    with pytest.raises(Failure, match=r"the download of wrn10_1\.cifar10\.safetensors is damaged or has changed"):
        get("weights", "wrn10_1.cifar10")
    assert not (downloads_folder() / "weights/wrn10_1.cifar10.safetensors").exists()


def test_a_download_by_hand_is_converted(server, real_data, tmp_path):
    content = next(iter(origins_of("wrn10_1.cifar10", real_data, tmp_path).values()))
    with pytest.raises(Failure, match=r"404 Not Found.* by hand to '(.*WRN10_1_cifar10\.pth)'"):
        get("weights", "wrn10_1.cifar10")
    folder = downloads_folder() / "downloads/wrn10_1.cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "WRN10_1_cifar10.pth").write_bytes(content)
    assert get("weights", "wrn10_1.cifar10").is_file()


def test_the_command_prints_licenses_first_and_where_files_are(server, real_data, tmp_path, capsys):
    server.update(origins_of("wrn10_1.cifar10", real_data, tmp_path))
    assert main(["weights", "get", "wrn10_1.cifar10", "cifar_resnet20.cifar10"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("wrn10_1.cifar10: from https://raw.githubusercontent.com/karanchahal/")
    assert out.splitlines()[1] == "license: none stated by the repository"
    assert out.splitlines()[2] == f"wrn10_1.cifar10: {downloads_folder()}/weights/wrn10_1.cifar10.safetensors"
    assert out.splitlines()[4] == "license: BSD 2-clause" and len(out.splitlines()) == 5
    assert "resnet20-12fca82f.th cannot be downloaded (the server answers 404 Not Found)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights", "get", "wrn10_1.cifar"], "no published file 'wrn10_1.cifar' (did you mean 'wrn10_1.cifar10'?)"),
        (["data", "get", "caltech"], "no published file 'caltech' (did you mean 'caltech-101'?) for `jaxft data get`"),
        (["data", "check", "digits", "digits"], "'digits' is one argument too many for `jaxft data check`"),
    ],
)
def test_an_unknown_name_is_an_error_of_one_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("variable", [None, "JAXFT_DATA"])
def test_a_config_names_the_commands_for_missing_files_and_finds_them_then(
    variable, server, real_data, root, tmp_path, monkeypatch
):
    config = f"{root}/configs/objects_to_scenes.py:small"
    with pytest.raises(UserError) as error:
        load_config(config)
    assert "`jaxft weights get resnetsmall14.cifar10 resnetsmall14.cifar100`" in str(error.value)
    assert "`jaxft data get intel-scenes-6` downloads what is missing" in str(error.value)
    if variable:
        monkeypatch.setenv(variable, str(real_data))
        folder = real_data
    else:
        names = ("resnetsmall14.cifar10", "resnetsmall14.cifar100", "intel-scenes-6")
        for name in names:
            server.update(origins_of(name, real_data, tmp_path))
        assert main(["weights", "get", *names[:2]]) == main(["data", "get", names[2]]) == 0
        folder = downloads_folder()
    study = load_config(config).study
    assert study.factors[0]["source.weights"][0] == f"{folder}/weights/resnetsmall14.cifar10.safetensors"
    assert study.target.data == f"{folder}/images/intel-scenes-6.zip"


@pytest.mark.nightly
@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.py")))
def test_every_config_starts_from_an_empty_cache_with_the_commands_that_its_error_names(
    config, server, real_data, tmp_path, capsys
):
    study = ["study", f"--config={CONFIGS / config}:small", "--dry-run"]
    if config == "quickstart.py":
        study[1] = study[1].removesuffix(":small")
    if main(study) != 0:
        commands = re.findall(r"`jaxft (weights|data) get ([^`]+)`", capsys.readouterr().err)
        for command, names in commands:
            for name in names.split():
                server.update(origins_of(name, real_data, tmp_path))
            assert main([command, "get", *names.split()]) == 0
        assert commands and main(study) == 0
    assert "trials" in capsys.readouterr().out
