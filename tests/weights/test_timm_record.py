"""Weights with the record of timm beside them, as in a repository of timm on the Hugging Face Hub."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxft
from jaxft.cli import main
from jaxft.core.errors import UserError
from jaxft.models import create_model
from jaxft.models.class_names import CLASS_NAMES
from jaxft.models.structure import expected_shapes
from jaxft.weights.porting import to_tensors
from jaxft.weights.timm_record import read_timm_record

CONFIG = {
    "architecture": "resnetsmall8",
    "num_classes": 10,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "a1_cifar",
        "input_size": [3, 48, 48],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.5, 0.125],
        "num_classes": 10,
        "label_names": [f"class {i}" for i in range(10)],
    },
}


def write(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


@pytest.fixture
def weights(tmp_path):
    model = create_model("resnetsmall8", num_classes=10)
    variables = {name: np.full(shape, 0.01, np.float32) for name, shape in expected_shapes(model, 48).items()}
    path = write(tmp_path / "timm", CONFIG)
    save_file(to_tensors(model, variables), path)
    return path


def test_network_preprocessing_and_class_names_come_from_the_record(weights):
    """By hand: 48 / 0.95 = 50.5, of which timm takes the floor."""
    network = jaxft.load(weights)
    assert network.model.architecture == "resnetsmall8" and network.class_names[9] == "class 9"
    assert (network.preprocessing.size_px, network.preprocessing.value_range) == (48, 1.0)
    assert network.preprocessing.mean == (0.5, 0.4, 0.3) and network.preprocessing.std == (0.25, 0.5, 0.125)
    assert network.crop == (50, slice(1, 49)) and network.manifest.origin == "timm/resnetsmall8.a1_cifar"
    assert network.assumptions == (
        "timm resizes images for model.safetensors by 'bicubic' interpolation; jaxft resizes by 'bilinear'.",
    )


def test_values_that_the_user_gives_come_before_the_record(weights):
    network = jaxft.load(weights, preprocessing={"mean": (0.1, 0.1, 0.1)}, class_names=list("abcdefghij"))
    assert network.preprocessing.mean == (0.1, 0.1, 0.1) and network.preprocessing.std == (0.25, 0.5, 0.125)
    assert network.class_names == tuple("abcdefghij")


def test_a_converted_file_needs_the_record_no_more(weights, tmp_path, capsys):
    assert main(["weights", "convert", str(weights), str(tmp_path / "copy.safetensors")]) == 0
    assert "by 'bicubic' interpolation" in capsys.readouterr().err
    network = jaxft.load(tmp_path / "copy.safetensors")
    assert network.preprocessing.mean == (0.5, 0.4, 0.3) and network.crop == (50, slice(1, 49))


def test_networks_of_imagenet_1k_have_its_class_names_and_timm_s_own_architecture(tmp_path):
    config = {
        "architecture": "efficientnet_lite0",
        "num_classes": 1000,
        "pretrained_cfg": CONFIG["pretrained_cfg"] | {"tag": "ra_in1k", "num_classes": 1000, "label_names": None},
    }
    record = read_timm_record(write(tmp_path / "lite0", config))
    assert record.model == "efficientnet_lite0_timm" and record.class_names == CLASS_NAMES["imagenet"]
    config["pretrained_cfg"]["tag"] = "in12k"
    assert read_timm_record(write(tmp_path / "lite0", config)).class_names == ()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0.0, 0.5]},
        {"mean": "0.5"},
        {"input_size": [3, 48, 64]},
        {"crop_pct": 0},
        {"crop_pct": None},
        {"mean": [0.5, float("nan"), 0.5]},
    ],
)
def test_a_damaged_record_is_refused_in_one_sentence(change, weights):
    write(weights.parent, CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | change})
    with pytest.raises(UserError, match=r"config\.json' is not a record of timm: it needs 'architecture'"):
        jaxft.load(weights)


@pytest.mark.parametrize("text", ["{}", "[]", '{"model_type": "vit"}', '"pretrained_cfg"'])
def test_another_config_json_is_no_record(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert read_timm_record(tmp_path / "model.safetensors") is None


@pytest.mark.nightly
def test_files_that_timm_saves_for_the_hub_are_read(tmp_path):
    try:
        import timm
        from timm.models import save_for_hf
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch raises a RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")

    model = timm.create_model("resnet18", pretrained=False, num_classes=1000)
    model.pretrained_cfg["tag"] = "a1_in1k"
    save_for_hf(model, tmp_path, safe_serialization=True)
    network = jaxft.load(tmp_path / "model.safetensors")
    assert network.model.architecture == "resnet18" and network.class_names == CLASS_NAMES["imagenet"]
    assert network.preprocessing.mean == tuple(model.pretrained_cfg["mean"])
    assert network.crop[0] == int(224 / model.pretrained_cfg["crop_pct"])
