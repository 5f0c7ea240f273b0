"""Metadata of weights: what a user gives, what a file records, and what is assumed."""

import jax
import numpy as np
import pytest
from helpers import draw_variables
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.cli import main
from jaxft.models import Preprocessing, create_model
from jaxft.models.class_names import CLASS_NAMES, NUM_CLASSES, dataset_with
from jaxft.weights import Manifest, read_class_names, read_file, replace_preprocessing, save_weights

BASE = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
CAFFE = Preprocessing(32, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 255.0, "bgr")
# Red 0, green 51, blue 255: in 0..1, these are 0, 0.2 and 1.
PIXEL = np.array([[[[0, 51, 255]]]], np.uint8)


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (BASE, {}, [-0.25, 0, 0.7 / 0.6]),
        (BASE, {"mean": (0.5, 0.5, 0.5)}, [-0.5 / 0.4, -0.3 / 0.5, 0.5 / 0.6]),
        (BASE, {"std": (0.5, 0.25, 1.0)}, [-0.2, 0, 0.7]),
        (BASE, {"channel_order": "bgr"}, [0.7 / 0.6, 0, -0.25]),  # the mean of red stays that of red
        (BASE, {"channel_order": "bgr", "mean": (0.5, 0.2, 0.4)}, [0.5 / 0.6, 0, -1]),  # a given mean is blue first
        (BASE, {"range": "-1..1", "mean": (0, 0, 0), "std": (1, 1, 1)}, [-1, -0.6, 1]),
        (BASE, {"range": "-1..1", "mean": (0.5, -0.6, 0), "std": (0.5, 1, 2)}, [-3, 0, 0.5]),
        (BASE, {"range": "0..255", "mean": (0, 1, 255), "std": (1, 10, 2)}, [0, 5, 0]),
        (BASE, {"range": "0..1", "mean": (0, 0, 0), "std": (1, 1, 1)}, [0, 0.2, 1]),
        (CAFFE, {"mean": (100, 50, 3), "std": (1, 2, 3)}, [155, 0.5, -1]),
        (CAFFE, {"channel_order": "rgb"}, [-123, 51 - 117, 255 - 104]),
    ],
    ids=str,
)
def test_given_values_replace_those_of_the_weights(base, given, expected):
    result = replace_preprocessing(base, given)
    np.testing.assert_allclose(np.asarray(result.apply(PIXEL)).ravel(), expected, rtol=1e-6, atol=1e-6)
    assert result.size_px == 32 and replace_preprocessing(base, {**given, "size_px": 64}).size_px == 64


@pytest.mark.parametrize(
    ("base", "given"),
    [
        (BASE, {"mean": (123.7, 116.3, 103.5)}),
        (BASE, {"std": (58.4, 57.1, 57.4)}),
        (BASE, {"mean": (-0.1, 0, 0)}),
        (CAFFE, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        (BASE, {"range": "0..255", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        (BASE, {"range": "-1..1", "mean": (-1.1, 0, 0), "std": (1, 1, 1)}),
    ],
    ids=str,
)
def test_values_for_another_range_are_refused(base, given):
    with pytest.raises(jaxft.UserError, match=r"do not fit pixels in 0\.\.(1|255); give the range that they are for"):
        replace_preprocessing(base, given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": (1, 0, 1)}, "'preprocessing.std' is .*; a standard deviation must be above 0"),
        ({"range": "0..255"}, "'preprocessing.range' is '0..255', the units of mean and std; give"),
        ({"range": "0..2"}, "'preprocessing.range' is '0..2'; allowed: '0..1' or '0..255' or '-1..1'"),
        ({"mean": (1, 2)}, "'preprocessing.mean' is"),
        ({"size_px": 0}, "'preprocessing.size_px' is 0"),
        ({"men": (1, 2, 3)}, "unknown config field 'preprocessing.men' .did you mean 'mean'"),
    ],
    ids=str,
)
def test_invalid_values_are_refused(bare, fields, message):
    with pytest.raises(jaxft.UserError, match=message):
        jaxft.load(bare, preprocessing=fields)


# --- the order of the sources -----------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """Returns a file of a network of 100 classes without metadata."""
    model = create_model("resnetsmall8", 100)
    save_weights(tmp_path / "own.safetensors", model, draw_variables(model, 32))
    save_file(load_file(tmp_path / "own.safetensors"), tmp_path / "resnetsmall8.mine.safetensors")
    return tmp_path / "resnetsmall8.mine.safetensors"


def test_each_value_comes_from_the_user_the_file_or_the_default(bare, tmp_path):
    default = create_model("resnetsmall8", 2).preprocessing
    network = jaxft.load(bare)
    assert network.preprocessing == default and len(network.assumptions) == 2
    network = jaxft.load(bare, preprocessing={"mean": (0.1, 0.2, 0.3)})
    assert network.preprocessing == Preprocessing(32, (0.1, 0.2, 0.3), default.std)
    assert len(network.assumptions) == 2  # the standard deviation is still assumed
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    network = jaxft.load(bare, preprocessing=given, class_names=CLASS_NAMES["cifar100"])
    assert network.preprocessing == BASE and network.assumptions == ()
    network.save(tmp_path / "copy.pth")
    copy = jaxft.load(tmp_path / "copy.pth")
    assert (copy.preprocessing, copy.class_names, copy.assumptions) == (BASE, CLASS_NAMES["cifar100"], ())
    again = jaxft.load(tmp_path / "copy.pth", preprocessing={"std": (0.9, 0.8, 0.7)})
    assert again.preprocessing == Preprocessing(32, BASE.mean, (0.9, 0.8, 0.7)) and again.assumptions == ()


def test_a_head_for_images_of_another_size_needs_their_size(tmp_path):
    model = create_model("resnetsmall8", 3)  # it flattens a map of 16 x 16 positions in place of 8 x 8
    save_weights(tmp_path / "own.safetensors", model, draw_variables(model, 64))
    save_file(load_file(tmp_path / "own.safetensors"), tmp_path / "resnetsmall8.large.safetensors")
    with pytest.raises(jaxft.UserError, match=r"gives params/head/kernel the shape \[1024, 3\]"):
        jaxft.load(tmp_path / "resnetsmall8.large.safetensors")
    network = jaxft.load(tmp_path / "resnetsmall8.large.safetensors", preprocessing={"size_px": 64})
    assert network.predict(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 3)


def test_convert_records_what_is_given(bare, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text('{"0": "n0"' + "".join(f', "{i}": "n{i}"' for i in range(1, 100)) + "}")
    out = tmp_path / "out.pth"
    words = ["weights", "convert", str(bare), str(out), "--mean", "0,0,0", "--std", "1,1,1", "--range=-1..1"]
    assert main([*words, "--labels", str(labels)]) == 0
    assert capsys.readouterr().err == ""
    network = jaxft.load(out)
    assert network.preprocessing == Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert network.class_names == tuple(f"n{i}" for i in range(100)) and network.assumptions == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mean", "0.5"], "--mean is '0.5'; give three numbers with commas, such as 0.5,0.5,0.5."),
        (["--size-px", "0"], "--size-px is 0; it must be 1 or more."),
        (["--range", "0..255"], "'preprocessing.range' is '0..255', the units of mean and std"),
        (["--labels", "nowhere.txt"], "the file of class names 'nowhere.txt' cannot be read: the file does not exist."),
    ],
    ids=str,
)
def test_wrong_options_are_refused(bare, tmp_path, capsys, words, message):
    assert main(["weights", "convert", str(bare), str(tmp_path / "out.pth"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out.pth").exists()


# --- assumptions ------------------------------------------------------------------------------------------------

ASSUMED = (
    "resnetsmall8.mine.safetensors does not record its preprocessing, so jaxft assumes the default of resnetsmall8: "
    "32 px, rgb, 0..1, mean (0.4914, 0.4822, 0.4465), std (0.2023, 0.1994, 0.201); its 100 classes suggest CIFAR-100, "
    "whose networks here use mean (0.507, 0.487, 0.441), std (0.267, 0.256, 0.276); if this is wrong, give the right "
    "values with --mean and --std (in a config, source.preprocessing; in Python, preprocessing=)."
)


def test_the_assumption_is_the_same_sentence_everywhere(bare, tmp_path, capsys):
    assert jaxft.load(bare).assumptions[0] == ASSUMED
    assert main(["weights", "inspect", str(bare)]) == 0
    assert f"note           {ASSUMED}\n" in capsys.readouterr().out
    assert main(["weights", "convert", str(bare), str(tmp_path / "out.pth")]) == 0
    assert capsys.readouterr().err == f"warning: {ASSUMED}\n"
    jaxft.load_weights(bare, create_model("resnetsmall8", 100))
    assert capsys.readouterr().err == f"warning: {ASSUMED}\n"
    assert jaxft.load(tmp_path / "out.pth").manifest.assumed  # the new file records that it is an assumption


def test_a_number_of_classes_suggests_a_data_set_if_only_one_has_it():
    assert [dataset_with(number) for number in (100, 365, 1000)] == ["CIFAR-100", "Places365", "ImageNet"]
    assert [dataset_with(number) for number in (10, 101, 200, 7, None)] == [None] * 5
    assert all(
        len(names) == NUM_CLASSES[name]
        for name, names in zip(("CIFAR-10", "CIFAR-100", "ImageNet"), CLASS_NAMES.values())
    )


def test_a_network_of_cifar100_that_is_not_on_the_list(real_data, tmp_path):
    """One changed value makes the sha256 unknown. With the values of the hint, the network computes as before."""
    original = real_data / "weights" / "resnetsmall20.cifar100.safetensors"
    tensors = load_file(original)
    tensors["conv1.weight"].flat[0] += 1e-7
    path = tmp_path / "resnetsmall20.unknown.safetensors"
    save_file(tensors, path)
    known, assumed = jaxft.load(original), jaxft.load(path)
    assert "100 classes suggest CIFAR-100, whose networks here use mean (0.507, 0.487, 0.441)" in assumed.assumptions[0]
    given = jaxft.load(path, preprocessing={"mean": (0.507, 0.487, 0.441), "std": (0.267, 0.256, 0.276)})
    with np.load(real_data / "images" / "cifar10-lossless-5000.npz") as arrays:
        images = arrays["test_images"][:8]
    apply = jax.jit(known.model.apply)
    right, wrong, expected = (
        np.asarray(apply(network.arrays, network.preprocessing.apply(images))) for network in (given, assumed, known)
    )
    np.testing.assert_allclose(right, expected, rtol=1e-3, atol=1e-3)
    assert np.linalg.norm(wrong - expected) / np.linalg.norm(expected) > 0.2


# --- class names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog house\n", ("cat", "dog house")),
        ("\ufeff cat \r\n\r\ndog\r\n", ("cat", "dog")),
        ('["cat", "dog"]', ("cat", "dog")),
        ('{"1": "dog", "0": "cat"}', ("cat", "dog")),
        (
            "n02123045 tabby cat\nn02012849 crane\nn03126707 crane\n",
            ("tabby cat", "n02012849 crane", "n03126707 crane"),
        ),
        ("n02123045 tabby cat\ndog\n", ("n02123045 tabby cat", "dog")),
    ],
    ids=["lines", "other line ends", "list", "object", "WordNet ids", "one WordNet id"],
)
def test_files_of_class_names(tmp_path, text, names):
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "labels.txt") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no class names"),
        (b"cat\ndog\ncat\n", "has the class name 'cat' twice; class names must differ"),
        (b'{"0": "cat", "2": "dog"}', "must be a JSON list of class names, or an object from each label to its name"),
        (b'["cat", 3]', "must be a JSON list of class names"),
        (b'["cat"', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_wrong_files_of_class_names_are_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(jaxft.UserError, match=message):
        read_class_names(tmp_path / "labels.txt")


@pytest.mark.parametrize("names", [CLASS_NAMES["cifar10"], ("one",)])
def test_a_wrong_number_of_class_names_is_refused(bare, names):
    message = rf"{len(names)} class names are given, but resnetsmall8.mine.safetensors has 100 classes\."
    with pytest.raises(jaxft.UserError, match=message):
        jaxft.load(bare, class_names=names)


def test_class_names_for_a_file_without_a_classifier_are_refused(bare):
    tensors = {name: tensor for name, tensor in load_file(bare).items() if not name.startswith("linear.")}
    save_file(tensors, bare)
    with pytest.raises(jaxft.UserError, match=r"100 class names are given, but .* has no classifier"):
        jaxft.load(bare, class_names=CLASS_NAMES["cifar100"])


def test_the_manifest_counts_the_classes_of_the_file(bare):
    model = create_model("resnetsmall8", 2)
    assert read_file(bare, model)[1].num_classes == 100
    assert Manifest("a", "", "toy", BASE).num_classes is None
