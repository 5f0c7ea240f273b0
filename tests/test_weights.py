"""Weight files in and out: every mismatch is said, nothing is lost on the way."""

import hashlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft import paths
from jaxft.models import create_model, families
from jaxft.weights import expected_shapes, init_variables, load, load_weights, save_weights

FILES = [file for family in families() for file in family.published]


@pytest.fixture(scope="module")
def network():
    """Returns a network and its variables."""
    model = create_model("resnetsmall8", num_classes=4)
    return model, init_variables(model, jax.random.key(3), 32)


@pytest.fixture
def saved(network, tmp_path):
    """Returns a network, its variables, and the file they were saved to."""
    model, variables = network
    path = tmp_path / "own.safetensors"
    save_weights(path, model, variables)
    return model, variables, path


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def test_saved_and_loaded_is_the_same(saved):
    model, variables, path = saved
    assert_same_bits(
        {n: np.asarray(v) for n, v in paths.flatten(variables).items()},
        {n: np.asarray(v) for n, v in paths.flatten(load_weights(path, model)).items()},
    )


def test_published_names_and_layouts(saved):
    _, variables, path = saved
    tensors = load_file(path)
    kernel = np.asarray(variables["params"]["stage2"]["block1"]["conv1"]["kernel"])
    np.testing.assert_array_equal(tensors["layer2.0.conv1.weight"], kernel.transpose(3, 2, 0, 1))
    head = np.asarray(variables["params"]["head"]["kernel"])
    # torch flattens the 2 x 2 x 64 map channels first: its column c * 4 + y * 2 + x is our row (y * 2 + x) * 64 + c.
    assert tensors["linear.weight"][3, 7 * 4 + 1 * 2 + 0] == head[(1 * 2 + 0) * 64 + 7, 3]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_export_is_bit_equal(file, real_data, tmp_path):
    path = real_data / "weights" / file.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    model = create_model(file.model, num_classes={"cifar10": 10, "cifar100": 100, "imagenet": 1000}[file.dataset])
    headless = file.model == "squeezenet1_1_keras"
    variables = load_weights(path, model, head="new" if headless else "load")
    # A round through a device makes counters 32 bits wide; the file has them 64 bits wide again.
    save_weights(tmp_path / "out.safetensors", model, jax.tree.map(jax.numpy.asarray, variables))
    tensors = load_file(tmp_path / "out.safetensors")
    if headless:
        assert tensors.pop("conv10/kernel").shape == (1, 1, 512, 1000) and tensors.pop("conv10/bias").shape == (1000,)
    assert_same_bits(tensors, load_file(path))


def test_the_manifest_travels(real_data, tmp_path):
    model = create_model("resnetsmall8", num_classes=100)
    variables, manifest = load(real_data / "weights" / "resnetsmall8.cifar100.safetensors", model)
    assert manifest.preprocessing.mean == (0.507, 0.487, 0.441) and manifest.class_names[99] == "worm"
    assert dict(manifest.metadata) == {"epoch": "247"}
    save_weights(tmp_path / "copy.safetensors", model, variables, manifest)
    _, again = load(tmp_path / "copy.safetensors", model)
    assert again.preprocessing == manifest.preprocessing and again.class_names == manifest.class_names
    assert again.metadata == manifest.metadata and again.origin == manifest.origin and not again.assumed


def test_a_file_that_says_nothing_gets_the_usual_preprocessing_and_says_so(saved, tmp_path):
    model, _, path = saved
    save_file(load_file(path), tmp_path / "bare.safetensors")
    _, manifest = load(tmp_path / "bare.safetensors", model)
    assert manifest.assumed and manifest.preprocessing == model.preprocessing


def test_a_new_head_is_drawn_from_the_key_and_the_rest_is_the_files(saved):
    _, variables, path = saved
    other = create_model("resnetsmall8", num_classes=9)
    one = load_weights(path, other, head="new", key=jax.random.key(0))
    two = load_weights(path, other, head="new", key=jax.random.key(1))
    assert one["params"]["head"]["kernel"].shape == (256, 9)
    assert (one["params"]["head"]["kernel"] != two["params"]["head"]["kernel"]).any()
    np.testing.assert_array_equal(
        one["params"]["stem"]["conv"]["kernel"], variables["params"]["stem"]["conv"]["kernel"]
    )


def test_a_new_head_is_that_of_the_whole_network(saved):
    model, variables, path = saved
    again = load_weights(path, model, head="new", key=jax.random.key(3))
    np.testing.assert_array_equal(again["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_another_number_of_classes_is_an_error_that_says_what_to_do(saved):
    _, _, path = saved
    with pytest.raises(jaxft.UserError, match=r"linear\.weight gives .*head='new' leaves it out"):
        load_weights(path, create_model("resnetsmall8", num_classes=9))


def test_a_file_without_classifier_says_so(real_data):
    path = real_data / "weights" / "squeezenet1_1.imagenet-notop.safetensors"
    model = create_model("squeezenet1_1_keras", num_classes=3)
    with pytest.raises(
        jaxft.UserError, match=r"has no classifier \(conv10/bias, conv10/kernel\); head='new' makes one"
    ):
        load_weights(path, model)
    variables, manifest = load(path, model, head="new")
    assert variables["params"]["head"]["conv"]["kernel"].shape == (1, 1, 512, 3)
    assert manifest.layout == "keras" and manifest.preprocessing.channel_order == "bgr"


def test_a_file_for_another_network_says_which(real_data, tmp_path):
    path = real_data / "weights" / "squeezenet1_0.imagenet-deepcompressed.safetensors"
    said = "squeezenet1_0.imagenet-deepcompressed.safetensors is for squeezenet1_0_caffe, not for squeezenet1_0; name"
    with pytest.raises(jaxft.UserError, match=said):  # though every tensor fits
        load_weights(path, create_model("squeezenet1_0", num_classes=1000))
    model = create_model("squeezenet1_0_caffe", num_classes=4)
    save_weights(tmp_path / "own.safetensors", model, load_weights(path, model, head="new"))
    with pytest.raises(jaxft.UserError, match=r"own\.safetensors is for squeezenet1_0_caffe"):
        load_weights(tmp_path / "own.safetensors", create_model("squeezenet1_0", num_classes=4))


@pytest.mark.parametrize("name", ["squeezenet1_1", "squeezenet1_1_keras"])
def test_a_convolution_as_head_travels(name, tmp_path):
    model = create_model(name, num_classes=3)
    rng = np.random.default_rng(0)
    shapes = expected_shapes(model, 64)
    variables = paths.unflatten({n: rng.normal(size=shape).astype(np.float32) for n, shape in shapes.items()})
    save_weights(tmp_path / "own.safetensors", model, variables)
    again, manifest = load(tmp_path / "own.safetensors", model)
    np.testing.assert_array_equal(
        again["params"]["head"]["conv"]["kernel"], variables["params"]["head"]["conv"]["kernel"]
    )
    assert manifest.layout == model.layout and manifest.assumed
    assert manifest.preprocessing == model.preprocessing  # any size fits such a head: the usual one is told


def test_every_mismatch_is_in_one_error(saved, tmp_path):
    model, _, path = saved
    tensors = load_file(path)
    del tensors["bn1.running_var"]
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :2]
    tensors["fc.weight"] = tensors.pop("linear.weight")
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(jaxft.UserError) as error:
        load_weights(tmp_path / "bad.safetensors", model)
    for said in (
        "bn1.running_var is missing (for batch_stats/stem/bn/var)",
        "conv1.weight gives params/stem/conv/kernel the shape [3, 3, 2, 64], the model has [3, 3, 3, 64]",
        "linear.weight is missing (for params/head/kernel)",
        "fc.weight is left over",
    ):
        assert said in str(error.value)


def test_only_the_head_may_be_left_out(saved, tmp_path):
    model, _, path = saved
    tensors = load_file(path)
    del tensors["linear.weight"], tensors["linear.bias"]
    save_file(tensors, tmp_path / "headless.safetensors")
    load_weights(tmp_path / "headless.safetensors", model, head="new")
    del tensors["layer3.0.bn2.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(jaxft.UserError, match=r"layer3\.0\.bn2\.bias is missing"):
        load_weights(tmp_path / "less.safetensors", model, head="new")


def test_a_flipped_bit_in_a_file_of_ours_is_found(saved):
    model, _, path = saved
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(jaxft.UserError, match="damaged"):
        load_weights(path, model)


def test_a_flipped_bit_in_a_published_file_is_found(real_data, tmp_path):
    content = bytearray((real_data / "weights" / "resnetsmall8.cifar10.safetensors").read_bytes())
    content[-100] ^= 1
    path = tmp_path / "resnetsmall8.cifar10.safetensors"
    path.write_bytes(content)
    with pytest.raises(jaxft.UserError, match="damaged: its sha256"):
        load_weights(path, create_model("resnetsmall8", num_classes=10))


def test_variables_with_counters_run(real_data):
    model = create_model("resnetsmall8", num_classes=10)
    variables = load_weights(real_data / "weights" / "resnetsmall8.cifar10.safetensors", model)
    assert int(variables["counters"]["stem"]["bn"]["num_batches_tracked"]) > 0
    assert model.apply(variables, np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 10)
