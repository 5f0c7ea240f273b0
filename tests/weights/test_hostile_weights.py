"""Weight files that are valid in their format, and no weights: each is one sentence."""

import json
import os
import struct

import msgpack
import numpy as np
import pytest

import jaxft
from jaxft.cli import main
from jaxft.core import paths
from jaxft.core.digests import sha256_of
from jaxft.weights import find_model, load_weights, read_network, save_weights
from jaxft.weights.formats import FORMATS
from jaxft.weights.porting import to_tensors


def refused(read, match=None, most=500):
    """Returns the sentence of the `UserError` that `read` raises."""
    with pytest.raises(jaxft.UserError, match=match) as refusal:
        read()
    message = str(refusal.value)
    assert len(message.splitlines()) == 1 and message.endswith(".") and len(message) < most, message
    return message


def write(path, tensors, metadata=None):
    """Writes tensors in the format of the suffix, without a record of jaxft."""
    name = {".safetensors": "safetensors", ".npz": "npz", ".pth": "torch", ".msgpack": "msgpack"}[path.suffix]
    FORMATS[name].value.write(path, tensors, metadata or {})
    return path


def write_safetensors(path, header, values=b""):
    """Writes a safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


@pytest.mark.parametrize("num_dimensions", [5, 64, 65, 1000])
def test_tensors_of_many_dimensions(toy, tmp_path, num_dimensions):
    model, variables = toy
    tensors = to_tensors(model, variables)
    header, values = {}, b""
    for name, array in tensors.items():
        shape = [1] * num_dimensions if name == "conv1.weight" else list(array.shape)
        content = array.tobytes() if name != "conv1.weight" else bytes(4)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(values), len(values) + len(content)]}
        values += content
    path = write_safetensors(tmp_path / "toy.safetensors", header, values)
    refused(lambda: load_weights(path, model), r"conv1\.weight|not a safetensors file")
    refused(lambda: read_network(path, "toy"), r"conv1\.weight|not a safetensors file")


def with_record(path, toy, change):
    """Writes a weight file whose record is changed, with a digest that fits it."""
    model, variables = toy
    save_weights(path, model, variables)
    metadata = FORMATS["safetensors"].value.metadata_of(path)
    record = change({name: value for name, value in json.loads(metadata["jaxft"]).items() if name != "record_sha256"})
    if isinstance(record, dict):
        record = record | {"record_sha256": sha256_of(json.dumps(record, sort_keys=True))}
    return write(
        path, to_tensors(model, variables), {"jaxft": record if isinstance(record, str) else json.dumps(record)}
    )


WRONG = {
    "model": [None, 3, ["toy"], "\ud800"],
    "preprocessing": [None, [], {}, "x", {"size_px": 8}, {"mean": [0.5], "std": [0.5]}],
    "class_names": [None, "abc", [1, 2], {"a": 1}, ["\ud800"]],
    "origin": [None, 1],
    "layout": [None, "tensorflow", [], {}],
    "assumed": ["yes", 1, None],
    "tensors_sha256": [None, 1],
    "resize_px": ["8", -1, 1.5, 10**30],
    "naming": [None, 3],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_record_of_wrong_types_is_refused(toy, tmp_path, field, value):
    path = with_record(tmp_path / "toy.safetensors", toy, lambda record: record | {field: value})
    if value is None and field == "resize_px":
        return
    message = refused(lambda: load_weights(path, toy[0]), "has metadata that jaxft did not write", 700)
    assert f"wrong {field!r}" in message
    refused(lambda: find_model(path), f"wrong {field!r}", 700)


@pytest.mark.parametrize(
    "preprocessing",
    [{"size_px": 0}, {"size_px": 10**9}, {"size_px": True}, {"mean": [0.5, 0.5]}, {"std": [1, 0, 1]},
     {"std": [1e300] * 3}, {"mean": [None] * 3}, {"mean": "abc"}, {"value_range": 0},
     {"channel_order": "gbr"}, {"more": 1}],
)  # fmt: skip
def test_a_preprocessing_of_wrong_values_is_refused(toy, tmp_path, preprocessing):
    path = with_record(
        tmp_path / "toy.safetensors",
        toy,
        lambda record: record | {"preprocessing": record["preprocessing"] | preprocessing},
    )
    refused(lambda: load_weights(path, toy[0]), "missing or wrong 'preprocessing'")


@pytest.mark.parametrize(
    "text", ["[]", "{}", "3", "null", '"x"', "", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "{"]
)
def test_a_record_that_is_no_record_is_refused(toy, tmp_path, text):
    path = with_record(tmp_path / "toy.safetensors", toy, lambda record: text)
    refused(lambda: load_weights(path, toy[0]), "is damaged: its metadata does not match")
    refused(lambda: find_model(path), "is damaged: its metadata does not match")


def test_the_record_itself_is_fine(toy, tmp_path):
    path = with_record(tmp_path / "toy.safetensors", toy, lambda record: record)
    load_weights(path, toy[0])
    assert find_model(path) == "toy"


@pytest.mark.parametrize(
    "model", ["cifar_resnet6000002", "wrn99999999999994_2", "wrn10_99999999999", "cifar_resnet" + "8" * 5000]
)
def test_a_record_with_a_gigantic_network_is_refused(toy, tmp_path, model):
    path = with_record(tmp_path / "toy.safetensors", toy, lambda record: record | {"model": model})
    refused(lambda: read_network(path), "there is no model", 1001)


@pytest.mark.parametrize("depth", [60, 900, 100_000])
@pytest.mark.parametrize("opening", [b"\x81\xa6params", b"\x91"], ids=["dicts", "lists"])
def test_deeply_nested_msgpack(toy, tmp_path, depth, opening):
    path = tmp_path / "toy.msgpack"
    path.write_bytes(b"\x81\xa6params" + opening * depth + b"\x80")
    refused(lambda: load_weights(path, toy[0]))


@pytest.mark.parametrize(
    "leaf", [b"\xc0", b"\x01", b"\xa1x", b"\x93\x01\x02\x03", msgpack.packb(msgpack.ExtType(1, b"x"))]
)
def test_msgpack_with_other_leaves(toy, tmp_path, leaf):
    path = tmp_path / "toy.msgpack"
    path.write_bytes(b"\x81\xa6params\x81\xa4head\x81\xa6kernel" + leaf)
    refused(lambda: load_weights(path, toy[0]))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (3, 8, 1), (1, 3, 8, 1, 1), (0, 8), (2**40, 0)])
def test_a_head_of_the_wrong_rank_or_size(toy, tmp_path, shape, suffix):
    """The file has a classifier, so it is not taken for a file without one. A new head needs none of it."""
    model, variables = toy
    tensors = to_tensors(model, variables)
    head = next(name for name in tensors if tensors[name].shape == (3, 8))
    path = write(tmp_path / f"toy{suffix}", tensors | {head: np.zeros(shape, np.float32)})
    refused(lambda: load_weights(path, model), head)
    refused(lambda: read_network(path, "toy"), head)
    assert "head" not in paths.flatten(load_weights(path, model, head="new"))


@pytest.mark.parametrize("dtype", ["complex64", "S3", "U3"])
def test_weights_that_are_not_numbers(toy, tmp_path, dtype):
    from flax.serialization import to_bytes

    model, variables = toy
    leaves = {name: np.asarray(leaf) for name, leaf in paths.flatten(variables).items()}
    leaves["params/head/bias"] = np.zeros(3, dtype)
    path = tmp_path / "toy.msgpack"
    path.write_bytes(to_bytes(paths.unflatten(leaves)))
    refused(lambda: load_weights(path, model), "weights are real numbers|not a msgpack file")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".msgpack"])
def test_names_of_70_000_characters_are_cut(toy, tmp_path, suffix, capsys):
    model, variables = toy
    tensors = to_tensors(model, variables) if suffix != ".msgpack" else dict(paths.flatten(variables))
    long = ("params/" if suffix == ".msgpack" else "") + "x" * (70_000 if suffix != ".npz" else 60_000)
    path = write(tmp_path / f"toy{suffix}", {name: np.asarray(array) for name, array in tensors.items()} | {
        long + str(i): np.zeros(1, np.float32) for i in range(3)
    })  # fmt: skip
    refused(lambda: load_weights(path, model), "xxx", 1001)
    assert main(["weights", "inspect", str(path), "--model", "toy"]) in (0, 2)
    printed = capsys.readouterr()
    assert "x" * 1001 not in printed.out + printed.err


def test_weights_that_are_not_regular_files(toy, tmp_path):
    os.mkfifo(tmp_path / "toy.safetensors")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    for name, match in (("toy.safetensors", "a named pipe"), ("zero.pth", "a device"), ("loop.pth", "no weight file")):
        refused(lambda name=name: load_weights(tmp_path / name, toy[0]), match)
        refused(lambda name=name: find_model(tmp_path / name), match)
    folder = tmp_path / "toy.orbax"
    save_weights(folder, *toy)
    os.mkfifo(folder / "more")
    refused(lambda: load_weights(folder, toy[0]), "a named pipe")


def test_the_bound_of_weight_files(toy, tmp_path, monkeypatch):
    path = tmp_path / "toy.safetensors"
    save_weights(path, *toy)
    monkeypatch.setenv("JAXFT_MAX_BYTES", "1000")
    refused(lambda: load_weights(path, toy[0]), r"more than 1,000 \(--max-bytes sets the bound\)")
