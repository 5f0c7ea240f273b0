"""Keras files, written by h5py here as Keras writes them, and by Keras itself in the nightly tests."""

import os
import sys
import zipfile

import numpy as np
import pytest

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.weights import convert_weights, find_model, load, load_weights, read_network, save_weights
from jaxft.weights.formats import FORMATS, writable_suffixes
from jaxft.weights.formats.keras import WEIGHTS
from jaxft.weights.namings import namings_of
from jaxft.weights.porting import to_tensors

h5py = pytest.importorskip("h5py")
read = FORMATS["keras"].value.read
KERNEL, BIAS = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4), np.arange(4, dtype=np.float32)


def assert_equal(variables, expected):
    flat, leaves = paths.flatten(variables), paths.flatten(expected)
    assert flat.keys() == leaves.keys() and all(np.array_equal(flat[name], leaf) for name, leaf in leaves.items())


def add_layer(root, layer, weights):
    group = root.create_group(layer)
    group.attrs["weight_names"] = [name.encode() for name in weights]
    for name, array in weights.items():
        group.create_dataset(name, data=array)


@pytest.fixture
def legacy(tmp_path):
    """Returns a function that writes a file of layers, and returns its tensors."""

    def write(layers, root_name=None, as_text=False):
        with h5py.File(tmp_path / "own.h5", "w") as file:
            root = file.create_group(root_name) if root_name else file
            names = list(layers)
            root.attrs["layer_names"] = names if as_text else [name.encode() for name in names]
            root.attrs["backend"] = "tensorflow"
            if root_name:
                file.create_group("optimizer_weights").create_dataset("m", data=BIAS)
            for layer, weights in layers.items():
                add_layer(root, layer, weights)
        return read(tmp_path / "own.h5").tensors

    return write


@pytest.mark.parametrize("root_name", [None, "model_weights"])
@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize(
    "kernel", ["kernel:0", "conv1/kernel:0", "conv1/kernel", "conv1_1/kernel:0", "uniform_3:0", "conv1_W:0"]
)
def test_layers_and_variables_have_names(kernel, as_text, root_name, legacy):
    bias = "conv1_b:0" if kernel == "conv1_W:0" else f"{kernel.rpartition('/')[0]}/bias:0".lstrip("/")
    tensors = legacy({"input": {}, "conv1": {kernel: KERNEL, bias: BIAS}}, root_name, as_text)
    assert list(tensors) == ["conv1/kernel", "conv1/bias"]
    assert np.array_equal(tensors["conv1/kernel"], KERNEL) and np.array_equal(tensors["conv1/bias"], BIAS)


def test_a_nested_model_has_the_names_of_its_layers(legacy):
    weights = {"conv1/kernel:0": KERNEL, "conv1/bias:0": BIAS, "bn/gamma:0": BIAS}
    assert list(legacy({"resnet": weights})) == ["conv1/kernel", "conv1/bias", "bn/gamma"]


def test_many_layers_are_listed_in_several_attributes(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        names = [f"layer{i}" for i in range(300)]  # more than a symbol table node holds, so the B-tree has two levels
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:200], names[200:]
        for name in names:
            add_layer(file, name, {f"{name}/bias:0": BIAS})
    tensors = read(tmp_path / "own.h5").tensors
    assert list(tensors) == [f"{name}/bias" for name in names]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8", "uint16", "int64", ">i4"])
def test_numbers_of_every_type(dtype, legacy):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    stored = legacy({"a": {"kernel:0": array}})["a/kernel"]
    assert stored.dtype == np.dtype(dtype).newbyteorder("=") and np.array_equal(stored, array)


def test_layers_of_keras_3_have_the_names_of_the_layers(tmp_path):
    import ml_dtypes

    with h5py.File(tmp_path / "own.weights.h5", "w") as file:
        for key, name, arrays in (
            ("conv2d", "stem", (KERNEL, BIAS)),
            ("conv2d_1", "conv1", (KERNEL + 1,)),
            ("batch_normalization", "bn", (BIAS, BIAS + 1, BIAS + 2, BIAS + 3)),
            ("functional/layers/dense", "fc", (KERNEL[0, 0].astype(ml_dtypes.bfloat16),)),
            ("re_lu", "relu", ()),
        ):
            group = file.create_group(f"layers/{key}/vars")
            group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group.create_dataset(str(i), data=array)
        file.create_dataset("optimizer/vars/0", data=BIAS)
    tensors = read(tmp_path / "own.weights.h5").tensors
    assert set(tensors) == {"stem/kernel", "stem/bias", "conv1/kernel", "fc/kernel"} | {
        f"bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    assert np.array_equal(tensors["bn/moving_variance"], BIAS + 3)
    assert tensors["fc/kernel"].dtype == ml_dtypes.bfloat16 and np.array_equal(tensors["fc/kernel"], KERNEL[0, 0])


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
def test_a_network_is_bit_identical_in_every_layout(suffix, toy, tmp_path):
    model, variables = toy
    path = tmp_path / f"toy{suffix}"
    save_weights(tmp_path / "toy.weights.h5" if suffix == ".keras" else path, model, variables)
    if suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.write(tmp_path / "toy.weights.h5", WEIGHTS)
    assert find_model(path) == "toy"
    again, manifest = load(path, model)
    assert (manifest.format, manifest.naming) == ("keras", "akamaster")
    assert_equal(again, variables)
    convert_weights(path, tmp_path / "one.safetensors")
    save_weights(tmp_path / "two.safetensors", model, variables)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_layers_are_written_in_the_order_of_the_network(tmp_path):
    from helpers import draw_variables

    model = create_model("squeezenet1_1_keras", 3)
    save_weights(tmp_path / "net.h5", model, draw_variables(model, 64))
    with h5py.File(tmp_path / "net.h5") as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        weights = [name.decode() for name in file["fire2/squeeze1x1"].attrs["weight_names"]]
    assert names[:4] == ["conv1", "fire2/squeeze1x1", "fire2/expand1x1", "fire2/expand3x3"] and names[-1] == "conv10"
    assert weights == ["fire2/squeeze1x1/kernel:0", "fire2/squeeze1x1/bias:0"]


def test_a_published_network_has_its_names_and_values(real_data, tmp_path):
    source = real_data / "weights" / "squeezenet1_1.imagenet-notop.safetensors"
    convert_weights(source, tmp_path / "net.h5")
    _, again, manifest = read_network(tmp_path / "net.h5")
    assert manifest.model == "squeezenet1_1_keras" and manifest.preprocessing.channel_order == "bgr"
    assert_equal(again, read_network(source)[1])
    assert "fire2/squeeze1x1/kernel" in read(tmp_path / "net.h5").tensors


def test_writing_without_h5py_says_how_to_install_it(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(jaxft.UserError, match=r"writing 'net\.h5' needs h5py; `pip install 'jaxft\[keras\]'`"):
        save_weights(tmp_path / "net.h5", *toy)
    assert ".h5" not in writable_suffixes() and ".npz" in writable_suffixes()


def test_reading_needs_no_h5py(toy, tmp_path, monkeypatch):
    model, variables = toy
    save_weights(tmp_path / "toy.h5", model, variables)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert_equal(load_weights(tmp_path / "toy.h5", model), variables)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda group: group.create_dataset("k:0", data=KERNEL, compression="gzip"), "has a compressed dataset"),
        (lambda group: group.create_dataset("k:0", data=KERNEL, chunks=True), "has a dataset in chunks"),
        (lambda group: group.create_dataset("k:0", data=["a"]), "has a dataset of strings"),
        (lambda group: group.create_dataset("k:0", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "in another file"),
        (lambda group: group.create_dataset("k:0", (1 << 40,), "f4"), "is larger than its values|outside the file"),
        (lambda group: group.__setitem__("k:0", h5py.SoftLink("/a")), "a soft link"),
        (lambda group: group.__setitem__("k:0", h5py.ExternalLink("b.h5", "/a")), "damaged|newer layout|soft link"),
        (lambda group: None, "has no object 'k:0', which it names"),
    ],
)
def test_what_keras_never_writes_is_refused(make, message, tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"k:0"]
        make(group)
    with pytest.raises(jaxft.UserError, match=message):
        read(tmp_path / "own.h5")


def test_many_names_of_the_same_bytes_need_no_more_memory(tmp_path):
    """Hard links to one dataset with big-endian values, which have to be copied."""
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.attrs["layer_names"] = [f"layer{i}" for i in range(50)]
        file.create_dataset("values", data=np.zeros(100_000, ">f4"))
        for i in range(50):
            group = file.create_group(f"layer{i}")
            group.attrs["weight_names"] = [b"bias:0"]
            group["bias:0"] = file["values"]
    with pytest.raises(jaxft.UserError, match="has overlapping datasets"):
        read(tmp_path / "own.h5")


def test_a_long_text_is_no_name(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.attrs["model_config"] = "x" * 20_000  # whole models have a long attribute
        file.attrs["layer_names"] = ["y" * 2000]
    with pytest.raises(jaxft.UserError, match="has a name of more than a thousand characters"):
        read(tmp_path / "own.h5")


def test_the_newer_layout_of_hdf5_and_other_hdf5_files_are_refused(tmp_path):
    for libver, message in (
        ("latest", "uses a newer layout of HDF5 than Keras"),
        ("earliest", "without layers of Keras"),
    ):
        with h5py.File(tmp_path / "own.h5", "w", libver=libver) as file:
            file.create_dataset("a", data=BIAS)
        with pytest.raises(jaxft.UserError, match=message):
            read(tmp_path / "own.h5")


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def keras_squeezenet(keras):
    """Returns SqueezeNet 1.1 without a classifier, as in github.com/rcmalli/keras-squeezenet."""
    layers = keras.layers
    x = images = keras.Input((227, 227, 3))
    x = layers.Conv2D(64, 3, 2, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    for i, squeeze in {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}.items():
        x = layers.Conv2D(squeeze, 1, activation="relu", name=f"fire{i}_squeeze1x1")(x)
        one = layers.Conv2D(4 * squeeze, 1, activation="relu", name=f"fire{i}_expand1x1")(x)
        three = layers.Conv2D(4 * squeeze, 3, padding="same", activation="relu", name=f"fire{i}_expand3x3")(x)
        x = layers.Concatenate()([one, three])
        if i in (3, 5):
            x = layers.MaxPooling2D(3, 2)(x)
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
@pytest.mark.filterwarnings("default")
def test_keras_computes_the_same_features_from_written_files(suffix, keras, real_data, tmp_path):
    source = real_data / "weights" / "squeezenet1_1.imagenet-notop.safetensors"
    convert_weights(source, tmp_path / f"net{suffix}")
    network = keras_squeezenet(keras)
    network.load_weights(tmp_path / f"net{suffix}")
    images = np.random.default_rng(0).normal(0, 50, (2, 227, 227, 3)).astype(np.float32)
    model, variables, _ = read_network(source)
    expected = np.asarray(model.apply(variables, images, stop="fire9")).mean((1, 2))
    features = np.asarray(network(images))
    assert np.abs(features - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.filterwarnings("default")
def test_files_of_keras_are_read(suffix, keras, toy, tmp_path):
    """The layers of the toy network, in any graph, with random values, and the optimizer of a compiled network."""
    model, variables = toy
    expected = {}
    outputs, images = [], keras.Input((8, 8, 3))
    for name, array in to_tensors(model, variables, namings_of(model)["keras"]).items():
        layer, variable = name.split("/")
        if variable == "kernel" and array.ndim == 4:
            inputs = keras.layers.Conv2D(array.shape[2], 1, name=f"{layer}_input")(images)
            made = keras.layers.Conv2D(array.shape[3], array.shape[0], padding="same", use_bias=False, name=layer)
        elif variable == "kernel":
            inputs = keras.layers.Conv2D(array.shape[0], 1, name=f"{layer}_input")(images)
            made = keras.layers.Dense(array.shape[1], name=layer)
        elif variable == "gamma":
            inputs = keras.layers.Conv2D(len(array), 1, name=f"{layer}_input")(images)
            made = keras.layers.BatchNormalization(name=layer)
        else:
            continue
        outputs.append(made(inputs))
        values = [
            np.random.default_rng(len(outputs)).normal(size=weight.shape).astype(np.float32) for weight in made.weights
        ]
        made.set_weights(values)
        expected |= {f"{layer}/{weight.path.rpartition('/')[2]}": value for weight, value in zip(made.weights, values)}
    network = keras.Model(images, outputs)
    network.compile("adam", "mse")
    path = tmp_path / f"toy{suffix}"
    network.save_weights(path) if suffix == ".weights.h5" else network.save(path)
    tensors = read(path).tensors
    assert all(np.array_equal(tensors[name], array) for name, array in expected.items())
    assert not any("adam" in name for name in tensors)
