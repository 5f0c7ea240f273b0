"""A network from a weight file: weights, preprocessing and class names together."""

import re
import shutil
import zipfile

import jax
import numpy as np
import pytest
from helpers import draw_variables
from PIL import Image

import jaxft
from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.models import Preprocessing, create_model
from jaxft.weights import Manifest, load

SCALING = Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), channel_order="bgr")  # not the family's
NAMES = ("cat", "dog", "eel")


@pytest.fixture
def file(tmp_path):
    """Returns a weight file with its own preprocessing and class names."""
    model = create_model("toy", 3)
    manifest = Manifest("toy.safetensors", "", "toy", SCALING, NAMES)
    jaxft.save_weights(tmp_path / "toy.safetensors", model, draw_variables(model, 8), manifest)
    return tmp_path / "toy.safetensors"


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_the_preprocessing_of_the_file_is_used(file):
    """Pixels / 255, in BGR, minus the mean, over the deviation, by NumPy; the softmax of the network's logits."""
    network, x = jaxft.load(file), images(5, 8, 8, 3)
    assert network.preprocessing == SCALING != network.model.preprocessing and network.class_names == NAMES
    inputs = ((x[..., ::-1] / 255 - SCALING.mean) / SCALING.std).astype(np.float32)
    logits = np.asarray(network.model.apply(network.variables, inputs))
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(network.predict(x), expected, rtol=1e-4)
    np.testing.assert_allclose(network.predict(x, batch_size=2), expected, rtol=1e-4)
    np.testing.assert_allclose(network.apply(x), logits, rtol=1e-4, atol=1e-5)
    for block in network.model.blocks:
        output = network.apply(x, stop=block)
        np.testing.assert_allclose(network.apply(output, after=block), logits, rtol=1e-4, atol=1e-5)


def test_larger_images_are_prepared_as_files_are(file, tmp_path):
    x = images(3, 20, 13, 3)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(files, x):
        Image.fromarray(pixels).save(path)
    network = jaxft.load(file)
    for probabilities, prediction in zip(network.predict(x), jaxft.predict(file, files, top=3)):
        of_class = dict(zip(prediction.classes, prediction.probabilities))
        assert [of_class[name] for name in NAMES] == probabilities.tolist()
    assert network.predict(x[:0]).shape == (0, 3)


def test_a_saved_copy_has_the_same_bits_and_facts(file, tmp_path):
    jaxft.load(file).save(tmp_path / "copy.pth")
    copy, network = jaxft.load(tmp_path / "copy.pth"), jaxft.load(file)
    assert copy.preprocessing == SCALING and copy.class_names == NAMES
    ours, theirs = paths.flatten(network.variables), paths.flatten(copy.variables)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    variables, _ = load(tmp_path / "copy.pth", network.model)
    assert np.array_equal(variables["params"]["head"]["kernel"], network.variables["params"]["head"]["kernel"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "images are float32 of shape"),
        (np.zeros((8, 8, 3), np.uint8), r"of shape \[8, 8, 3\]; give uint8 images \[n, height, width, 3\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"of shape \[2, 3, 8, 8\]"),
    ],
    ids=["floats", "one image", "channels first"],
)
def test_images_of_another_kind_are_refused(file, x, message):
    with pytest.raises(jaxft.UserError, match=message):
        jaxft.load(file).predict(x)


def test_a_file_without_preprocessing_is_an_assumption(tmp_path):
    model = create_model("toy", 3)
    jaxft.save_weights(tmp_path / "toy.pth", model, draw_variables(model, 8))
    network = jaxft.load(tmp_path / "toy.pth")
    assert [text.split(",")[0] for text in network.assumptions] == [
        "toy.pth does not record its preprocessing",
        "toy.pth has no class names for 3 classes",
    ]
    assert network.class_names == ("0", "1", "2")


def test_published_weights_have_their_names_and_preprocessing(real_data):
    network = jaxft.load(real_data / "weights" / "resnetsmall14.cifar10.safetensors")
    assert network.class_names[:3] == ("airplane", "automobile", "bird") and network.assumptions == ()
    assert network.predict(images(4, 32, 32, 3)).shape == (4, 10)


def test_the_example_of_the_readme_runs(real_data, root, tmp_path, monkeypatch):
    """The network is right on at least 58 of 64 test images (92.6 % of 1,000), and its copy has the same metadata."""
    name = "resnetsmall14.cifar10.safetensors"
    shutil.copy(real_data / "weights" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    with np.load(real_data / "images" / "cifar10-lossless-5000.npz") as arrays:
        images, labels = arrays["test_images"][:64], arrays["test_labels"][:64]
        truths = [str(arrays["class_names"][label]) for label in labels]
    text = (root / "README.md").read_text()
    example = re.search(r"^network = jaxft\.load\(.*?^logits15 = .*?$", text, re.DOTALL | re.MULTILINE)
    variables = {"jax": jax, "jaxft": jaxft, "images": images}
    exec(compile(example[0], "README.md", "exec"), variables)
    assert sum(map(str.__eq__, variables["names"], truths)) >= 58
    assert variables["logits15"].shape == (64, 15) and variables["features"].shape == (64, 256)
    assert variables["stage2"].shape == (64, 16, 16, 32)
    original, copy = jaxft.load(name), jaxft.load("copy.safetensors")
    assert (copy.preprocessing, copy.class_names) == (original.preprocessing, original.class_names)
    assert copy.assumptions == ()


def test_networks_of_imagenet_have_wordnet_ids_also_as_a_copy(real_data, tmp_path, file):
    """The names of the sample images are the facts: class number, WordNet id and name."""
    network = jaxft.load(real_data / "weights/squeezenet1_0.imagenet-deepcompressed.safetensors")
    network.save(tmp_path / "copy.safetensors")
    for loaded in (network, jaxft.load(tmp_path / "copy.safetensors")):
        assert len(loaded.wordnet_ids) == 1000 and loaded.wordnet_ids[0] == "n01440764"
        with zipfile.ZipFile(real_data / "images/imagenet-sample-1000.zip") as images:
            assert list(loaded.wordnet_ids) == [name.split("_")[1] for name in sorted(images.namelist())]
    assert jaxft.load(file).wordnet_ids == ()


def test_features_are_the_input_of_the_head_or_a_pooled_block(file):
    network, x = jaxft.load(file), images(5, 8, 8, 3)
    below = np.asarray(network.apply(x, stop=network.model.feature_block))
    features = network.features(x, batch_size=2)
    np.testing.assert_allclose(features, below.reshape(5, -1), rtol=1e-5, atol=1e-6)
    head = network.variables["params"]["head"]
    np.testing.assert_allclose(
        features @ np.asarray(head["kernel"]) + np.asarray(head["bias"]), network.apply(x), rtol=1e-4, atol=1e-5
    )
    stage1 = np.asarray(network.apply(x, stop="stage1"))
    np.testing.assert_allclose(network.features(x, block="stage1"), stage1.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.features(x, "stage1", "max"), stage1.max((1, 2)), rtol=1e-5, atol=1e-6)


def test_features_of_a_network_that_flattens_are_flattened(real_data):
    network = jaxft.load(real_data / "weights/resnetsmall8.cifar10.safetensors")
    features, head = network.features(images(3, 32, 32, 3)), network.variables["params"]["head"]
    assert features.shape == (3, 256)
    logits = network.apply(images(3, 32, 32, 3))
    np.testing.assert_allclose(
        features @ np.asarray(head["kernel"]) + np.asarray(head["bias"]), logits, rtol=1e-3, atol=1e-3
    )


def test_features_with_an_unknown_pooling_are_an_error_of_one_sentence(file):
    with pytest.raises(UserError, match=r"the pooling 'averag' does not exist \(did you mean 'average'\?\)"):
        jaxft.load(file).features(images(2, 8, 8, 3), pooling="averag")
