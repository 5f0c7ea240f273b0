"""NumPy archives of weights."""

import io
import zipfile

import numpy as np
import pytest

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.weights import convert_weights, load, load_weights, read_network, save_weights
from jaxft.weights.formats import FORMATS
from jaxft.weights.namings import namings_of
from jaxft.weights.porting import to_tensors

read = FORMATS["npz"].value.read


def assert_equal(variables, expected):
    flat, leaves = paths.flatten(variables), paths.flatten(expected)
    assert flat.keys() == leaves.keys() and all(np.array_equal(flat[name], leaf) for name, leaf in leaves.items())


@pytest.mark.parametrize("naming", ["akamaster", "flax", "keras"])
@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_load_under_every_naming(naming, savez, toy, tmp_path):
    model, variables = toy
    savez(tmp_path / "toy.npz", **to_tensors(model, variables, namings_of(model)[naming]))
    again, manifest = load(tmp_path / "toy.npz", model)
    assert (manifest.format, manifest.naming) == ("npz", naming)
    assert_equal(again, variables)


@pytest.mark.parametrize("naming", ["akamaster", "flax", "keras"])
def test_numpy_reads_written_archives(naming, toy, tmp_path):
    model, variables = toy
    save_weights(tmp_path / "toy.npz", model, variables, naming=naming)
    expected = to_tensors(model, variables, namings_of(model)[naming])
    with np.load(tmp_path / "toy.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {*expected, "metadata.json"}
        assert all(np.array_equal(archive[name], array) for name, array in expected.items())
    convert_weights(tmp_path / "toy.npz", tmp_path / "copy.npz")
    assert (tmp_path / "copy.npz").read_bytes() == (tmp_path / "toy.npz").read_bytes()


def test_names_and_kernels_in_the_layout_of_big_transfer(toy, tmp_path):
    """BiT has names with slashes, such as `resnet/root_block/standardized_conv2d/kernel`, and kernels as HWIO."""
    kernel = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)
    np.savez(tmp_path / "bit.npz", **{"resnet/root_block/standardized_conv2d/kernel": kernel})
    tensors = read(tmp_path / "bit.npz").tensors
    assert np.array_equal(tensors["resnet/root_block/standardized_conv2d/kernel"], kernel)


def test_a_real_network_is_bit_identical(real_data, tmp_path):
    source = real_data / "weights" / "resnetsmall8.cifar10.safetensors"
    convert_weights(source, tmp_path / "net.npz")
    convert_weights(tmp_path / "net.npz", tmp_path / "net.safetensors")
    assert_equal(read_network(tmp_path / "net.safetensors")[1], read_network(source)[1])


def test_fortran_order_big_endian_and_scalars(tmp_path):
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(3, dtype=">i4"), "c": np.array(5)}
    np.savez(tmp_path / "own.npz", **arrays)
    tensors = read(tmp_path / "own.npz").tensors
    assert all(
        np.array_equal(tensors[name], array) and tensors[name].shape == array.shape for name, array in arrays.items()
    )
    assert tensors["b"].dtype == np.int32


def entry(header, values):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


SHAPE = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry(SHAPE.format("(1000000, 1000000)"), bytes(8)), "whose size does not fit its shape"),
        (entry(SHAPE.format("(3,)"), bytes(8)), "whose size does not fit its shape"),
        (entry("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)), "not an array of numbers"),
        (entry("__import__('os').abort()", b""), "not an array of numbers"),
        (b"\x80\x04", "is not a NumPy array"),
    ],
)
def test_an_entry_that_is_not_an_array_of_numbers_is_refused(content, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(jaxft.UserError, match=message):
        read(tmp_path / "own.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "own.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(jaxft.UserError, match="not an array of numbers"):
        read(tmp_path / "own.npz")


def test_archives_that_declare_wrong_sizes_are_refused_before_reading(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(10_000_000, np.float32))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *args: pytest.fail("an entry is read"))
    with pytest.raises(jaxft.UserError, match=r"declares 40,000,128 bytes of values in .* more than 100 times"):
        read(tmp_path / "bomb.npz")
    np.savez(tmp_path / "own.npz", a=np.zeros(3, np.float32))
    content = bytearray((tmp_path / "own.npz").read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1 << 20).to_bytes(4, "little")  # the size after decompression
    (tmp_path / "lies.npz").write_bytes(content)
    with pytest.raises(jaxft.UserError, match=r"entry 'a\.npy' declares a wrong size"):
        read(tmp_path / "lies.npz")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "x" * 301])
def test_a_name_that_no_message_can_show_is_refused(name, toy, tmp_path):
    np.savez(tmp_path / "toy.npz", **{name: np.zeros(3, np.float32)})
    with pytest.raises(jaxft.UserError, match="it has a tensor with the name") as error:
        load_weights(tmp_path / "toy.npz", toy[0])
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


def test_overlapping_entries_are_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", entry(SHAPE.format("(1000,)"), bytes(4000)))
        archive.filelist = archive.filelist * 50
    (tmp_path / "own.npz").write_bytes(stream.getvalue())
    with pytest.raises(jaxft.UserError, match="overlapping entries"):
        read(tmp_path / "own.npz")


def test_a_network_with_depthwise_convolutions_has_names_in_keras(tmp_path):
    from helpers import draw_variables

    model = create_model("toy_lite", 3)
    variables = draw_variables(model, 32)
    save_weights(tmp_path / "toy_lite.npz", model, variables, naming="keras")
    with np.load(tmp_path / "toy_lite.npz") as archive:
        assert archive["stage1_block1_depthwise_conv/kernel"].shape == (3, 3, 32, 1)
        assert {"stem_bn/gamma", "stem_bn/beta", "stem_bn/moving_mean", "stem_bn/moving_variance"} <= set(archive.files)
    assert_equal(load_weights(tmp_path / "toy_lite.npz", model), variables)
