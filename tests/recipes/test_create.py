"""Networks by name: with random weights, with published weights, and with a new head on them."""

import jax
import numpy as np
import pytest

import jaxft
from jaxft.core.errors import UserError
from jaxft.models import Network


@pytest.fixture
def data_folder(real_data, monkeypatch):
    monkeypatch.setenv("JAXFT_DATA", str(real_data))
    return real_data


def test_without_pretrained_the_network_has_no_weights():
    model = jaxft.create_model("resnetsmall8", num_classes=7)
    assert isinstance(model, Network) and model.num_classes == 7


@pytest.mark.parametrize("name", ["wrn10_1", "wrn10_1.cifar10"])
def test_published_weights_by_the_name_of_the_network_or_of_the_file(name, data_folder):
    network = jaxft.create_model(name, pretrained=True)
    same = jaxft.load(data_folder / "weights/wrn10_1.cifar10.safetensors")
    assert network.class_names == same.class_names and network.preprocessing == same.preprocessing
    jax.tree.map(np.testing.assert_array_equal, network.variables, same.variables)


def test_a_new_head_is_drawn_by_the_key_on_the_same_backbone(data_folder):
    one, two = (
        jaxft.create_model("wrn10_1", 3, pretrained=True, key=jax.random.key(seed)).variables["params"]
        for seed in (1, 2)
    )
    trained = jaxft.load("wrn10_1.cifar10").variables["params"]
    assert one["head"]["kernel"].shape == (64, 3) and not np.array_equal(one["head"]["kernel"], two["head"]["kernel"])
    for tree in (one, two, trained):
        tree.pop("head")
    jax.tree.map(np.testing.assert_array_equal, one, trained)
    jax.tree.map(np.testing.assert_array_equal, two, trained)
    network = jaxft.create_model("wrn10_1", 3, pretrained=True)
    assert network.class_names == ("0", "1", "2") and network.manifest.class_names == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnetsmall8", r"resnetsmall8\.cifar10, resnetsmall8\.cifar10-distilled, resnetsmall8\.cifar100; name one"),
        ("resnet50", r"torchvision/resnet50, torchvision/resnet50\.IMAGENET1K_V1; name one"),
        ("wrn16_8", r"pretrained=True does not determine the weights of 'wrn16_8': it has no published weights"),
        ("wrn10_2_", r"there is no model 'wrn10_2_'"),
        ("timm/resnet18", r"write timm/NAME\.TAG"),
    ],
)
def test_weights_that_are_not_determined_are_an_error_of_one_sentence(name, message):
    with pytest.raises(UserError, match=message):
        jaxft.create_model(name, pretrained=True)


def test_the_number_of_classes_is_needed_without_pretrained():
    with pytest.raises(UserError, match="num_classes is missing"):
        jaxft.create_model("resnetsmall8")
