"""Helpers of config files: scales, the folder of the data, and standard sections of a scale."""

import ast
from pathlib import Path

import pytest

from jaxft.config import from_dict, read_scale
from jaxft.config.study import Study
from jaxft.core.errors import UserError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Returns the path of a config file. $JAXFT_DATA is a folder with one image set."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "some.zip").touch()
    monkeypatch.setenv("JAXFT_DATA", str(tmp_path / "data"))
    return str(tmp_path / "clone" / "configs" / "some.py")


@pytest.mark.parametrize(
    ("arg", "name", "folder"),
    [
        ("", "", None),
        ("small", "small", None),
        ("full", "full", None),
        ("elsewhere", "", "elsewhere"),
        ("small,elsewhere", "small", "elsewhere"),
    ],
)
def test_an_argument_is_a_scale_a_folder_or_both(arg, name, folder, config):
    scale = read_scale(arg, config)
    assert scale.name == name and scale.folder == (None if folder is None else Path(folder))
    assert (scale.is_small, scale.is_full) == (name == "small", name == "full")


@pytest.mark.parametrize(("arg", "values"), [("", [1, 1, 1]), ("small", [1, 2, 2]), ("full", [1, 1, 3])])
def test_a_scale_without_a_value_has_the_default(arg, values, config):
    scale = read_scale(arg, config)
    assert [scale.pick(1), scale.pick(1, small=2), scale.pick(1, small=2, full=3)] == values
    assert scale.pick("usual", small=None, full=None) == (None if arg else "usual")


def test_files_are_in_the_folder_and_have_other_names_at_the_full_scale(config, tmp_path):
    path = str(tmp_path / "data/images/some.zip")
    assert read_scale("", config).files("images/some.zip", full=["tfds:x"]) == [path]
    assert read_scale(str(tmp_path / "data"), config).files("images/some.zip") == [path]
    assert read_scale("full", config).files("images/some.zip", full=["tfds:x"]) == ["tfds:x"]


def test_files_are_looked_up_in_the_data_folder_of_the_user_and_then_in_the_cache_folder(config, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/data/images").mkdir(parents=True)
    for name in ("some.zip", "more.zip"):
        (tmp_path / "cache/data/images" / name).touch()
    paths = read_scale("", config).files("images/some.zip", "images/more.zip")
    assert paths == [str(tmp_path / "data/images/some.zip"), str(tmp_path / "cache/data/images/more.zip")]


def test_a_missing_file_and_a_missing_scale_are_errors_of_one_sentence(config, tmp_path):
    with pytest.raises(UserError, match=r"weights/a\.pth.*; `jaxft weights get a b` and `jaxft data get c` downloads"):
        read_scale("small", config).files("images/some.zip", "weights/a.pth", "images/c.zip", "weights/b.pth")
    with pytest.raises(
        UserError, match=r"weights/a\.pth is not in .*; give the folder of the data, --config=configs/some\.py:FOLDER"
    ):
        read_scale(str(tmp_path), config).files("weights/a.pth")
    with pytest.raises(UserError, match=r"some\.py does not have a scale 'full'"):
        read_scale("full", config).files("images/some.zip")


@pytest.mark.parametrize("arg", ["", "small", "full"])
def test_sections_are_those_of_a_study(arg, config):
    """By hand: images of 32 px are padded; those of 256 px are cropped to 224."""
    scale = read_scale(arg, config)
    fields = scale.study("Some study", seeds=3)
    source = {"images": {"data": "digits"}, "training": scale.source_training(epochs=2.0, batch_size=50)}
    fields.source = {"model": "resnet18", **source}
    fields.target = scale.images("digits", train_per_class=4)
    fields.training = scale.training(learning_rate=0.1, batch_size=8)
    study = from_dict(Study, fields.to_dict())
    crop = study.training.augmentation.crop
    full = arg == "full"
    assert (study.title, study.seeds) == ("Some study", (0, 1, 2))
    assert study.target.size_px == (256 if full else 32) and study.target.train_per_class == 4
    assert (crop.padding_px, crop.size_px, crop.scale_min) == ((0, 224, 0.3) if full else (4, None, 1.0))
    assert study.training.optimizer.learning_rate == 0.1 and study.training.batches.size == 8
    source = study.source.training
    assert source.batches.size == (256 if full else 50) and source.augmentation.flip.enabled
    assert source.optimizer.weight_decay == (1e-4 if full else 5e-4) and source.selection.weights == "last"


def test_configs_of_the_project_import_the_package_and_no_neighbor(root):
    for path in (root / "configs").glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert {getattr(node, "module", None) for node in imports} <= {"ml_collections", "jaxft.config"}, path
