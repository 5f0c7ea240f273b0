"""Namings: the port tables of a family, and the detection of the naming of a file."""

import numpy as np
import pytest
from helpers import draw_variables
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.weights import convert_weights, load, load_weights, read_network, save_weights, to_tensors
from jaxft.weights.namings import NAMINGS, Port, find_naming, find_port, namings_of, register_naming


def flat(variables):
    return {name: np.asarray(leaf) for name, leaf in paths.flatten(variables).items()}


@pytest.fixture
def toy():
    """Returns a network and its variables."""
    model = create_model("toy", num_classes=3)
    return model, draw_variables(model, 8)


@pytest.fixture
def add_naming(monkeypatch):
    """Returns a function that registers a naming during a test."""
    monkeypatch.setattr(NAMINGS, "entries", dict(NAMINGS.items()))
    return register_naming


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "efficientnet_lite0", "wrn10_1", "toy", "toy+wider3"])
def test_each_naming_has_a_unique_name_for_each_leaf(name):
    model = create_model(name, 3)
    for naming in namings_of(model).values():
        names = {find_port(leaf, model, naming).tensor_name for leaf in model.structure.shapes}
        assert len(names) == len(model.structure.shapes)
        assert find_naming(names, model, "file").table is naming.table


@pytest.mark.parametrize(("name", "naming"), [("squeezenet1_1_keras", "torchvision"), ("squeezenet1_0", "keras")])
def test_a_network_can_have_weights_in_any_naming_of_its_family(name, naming, tmp_path):
    """A file in a non-default naming has another layout, and loads to the same values."""
    model = create_model(name, 3)
    variables = draw_variables(model, 64)
    save_weights(tmp_path / "default.safetensors", model, variables)
    convert_weights(tmp_path / "default.safetensors", tmp_path / "other.safetensors", naming=naming)
    default, other = (load_file(tmp_path / f"{file}.safetensors") for file in ("default", "other"))
    assert not default.keys() & other.keys()
    again, manifest = load(tmp_path / "other.safetensors", model)
    assert (manifest.model, manifest.naming) == (name, naming)
    assert all(np.array_equal(leaf, flat(variables)[key]) for key, leaf in flat(again).items())
    save_weights(tmp_path / "copy.safetensors", model, again, manifest)
    assert load_file(tmp_path / "copy.safetensors").keys() == other.keys()


def test_a_registered_naming_can_be_saved_and_loaded(toy, add_naming, tmp_path):
    model, variables = toy
    add_naming(
        "cifar_resnet", "colon", lambda model: (Port(r"(?P<collection>\w+)/(?P<leaf>.+)", "{collection}:{leaf}"),)
    )
    save_weights(tmp_path / "colon.safetensors", model, variables, naming="colon")
    assert "params:head/bias" in load_file(tmp_path / "colon.safetensors")
    again, manifest = load(tmp_path / "colon.safetensors", model)
    assert manifest.naming == "colon"
    assert all(np.array_equal(leaf, flat(variables)[key]) for key, leaf in flat(again).items())
    assert "linear.bias" not in load_file(tmp_path / "colon.safetensors")


def test_a_file_that_fits_two_namings_is_refused(toy, add_naming, tmp_path):
    model, variables = toy

    def swapped(model):
        other = {"1": "2", "2": "1"}
        rows = namings_of(model)["akamaster"].table(model)
        kernel = "params/stage1/block1/conv{}/kernel"
        return (*(Port(kernel.format(i), f"layer1.0.conv{other[i]}.weight") for i in "12"), *rows)

    save_weights(tmp_path / "toy.safetensors", model, variables)
    add_naming("cifar_resnet", "swapped", swapped)
    with pytest.raises(jaxft.UserError, match="fit several namings of toy, which disagree: akamaster, swapped"):
        load_weights(tmp_path / "toy.safetensors", model)


def test_a_file_with_missing_tensors_is_refused_with_counts(tmp_path):
    model = create_model("efficientnet_lite0", 3)
    complete = to_tensors(model, draw_variables(model, 32), namings_of(model)["timm"])
    tensors = {name: values for name, values in complete.items() if not name.startswith("blocks.6.")}
    save_file(tensors | {"extra": np.zeros(1, np.float32)}, tmp_path / "part.safetensors")
    with pytest.raises(jaxft.UserError) as error:
        load_weights(tmp_path / "part.safetensors", model)
    # Three convolutions with a batch norm of four tensors each.
    assert "15 tensors are missing: blocks.6.0.bn2.bias, blocks.6.0.bn2.weight" in str(error.value)
    assert "and 12 more" in str(error.value) and "extra is left over" in str(error.value)


def test_an_unknown_naming_is_refused(toy, tmp_path):
    with pytest.raises(jaxft.UserError, match="toy has no naming 'tim'; it has akamaster, flax, keras"):
        save_weights(tmp_path / "toy.safetensors", *toy, naming="tim")


def test_a_network_without_namings_is_saved_under_its_leaf_names(toy, monkeypatch, tmp_path):
    model, variables = toy
    monkeypatch.setattr(NAMINGS, "entries", {})
    save_weights(tmp_path / "toy.safetensors", model, variables)
    assert "params/head/kernel" in load_file(tmp_path / "toy.safetensors")
    _, again, manifest = read_network(tmp_path / "toy.safetensors")
    assert manifest.layout == manifest.naming == "flax"
    assert all(np.array_equal(leaf, flat(variables)[key]) for key, leaf in flat(again).items())


def test_a_msgpack_file_keeps_the_naming_of_its_source(tmp_path):
    model = create_model("squeezenet1_0", 3)
    variables = draw_variables(model, 64)
    save_weights(tmp_path / "a.safetensors", model, variables, naming="keras")
    convert_weights(tmp_path / "a.safetensors", tmp_path / "b.msgpack")
    convert_weights(tmp_path / "b.msgpack", tmp_path / "c.safetensors")
    one, other = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "c.safetensors")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
