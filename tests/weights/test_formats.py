"""Formats of weight files: detection and registration."""

import dataclasses
import errno
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import jaxft
from jaxft.cli import main
from jaxft.core import paths
from jaxft.recipes.finetune.delivery import deliver_weights
from jaxft.weights import convert_weights, find_model, load, save_weights
from jaxft.weights.files import num_bytes_of
from jaxft.weights.formats import FORMATS, Contents, Format, format_of, register_format, writable_suffixes

MAGIC = b"OWN12"


def read_own(path):
    size = int.from_bytes(path.read_bytes()[5:9], "little")
    header, values = json.loads(path.read_bytes()[9 : 9 + size]), path.read_bytes()[9 + size :]
    arrays = np.split(
        np.frombuffer(values, np.float32),
        np.cumsum([np.prod(shape, dtype=int) for shape in header["shapes"].values()])[:-1],
    )
    tensors = {name: array.reshape(shape) for array, (name, shape) in zip(arrays, header["shapes"].items())}
    return Contents(tensors, header["metadata"])


def write_own(path, tensors, metadata):
    shapes = {name: array.shape for name, array in tensors.items()}
    header = json.dumps({"shapes": shapes, "metadata": metadata}).encode()
    path.write_bytes(
        MAGIC + len(header).to_bytes(4, "little") + header + b"".join(a.tobytes() for a in tensors.values())
    )


OWN = Format("own", (".own",), lambda first_bytes: first_bytes.startswith(MAGIC), read_own, write_own)


@pytest.fixture
def own_format(monkeypatch):
    """Registers a format of float32 values during a test."""
    monkeypatch.setattr(FORMATS, "entries", dict(FORMATS.entries))
    register_format(OWN)


def test_a_registered_format_can_be_read_written_and_converted(own_format, toy, tmp_path):
    """A registration is enough for reading, writing, conversion and messages."""
    model, variables = toy
    save_weights(tmp_path / "one.safetensors", model, variables)
    convert_weights(tmp_path / "one.safetensors", tmp_path / "copy.own")
    assert find_model(tmp_path / "copy.own") == "toy"
    again, manifest = load(tmp_path / "copy.own", model)
    assert (manifest.naming, manifest.checked) == (
        "akamaster",
        "its tensors match the sha256 in its metadata",
    )
    ours, read = paths.flatten(variables), paths.flatten(again)
    assert ours.keys() == read.keys() and all(np.array_equal(ours[name], read[name]) for name in ours)
    assert ".own" in writable_suffixes()
    with pytest.raises(jaxft.UserError, match=r"must end in \.safetensors, .*\.own"):
        save_weights(tmp_path / "own.onnx", model, variables)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"\x10\0\0\0\0\0\0\0{", "a.pth", "safetensors"),
        (b"\x80\0\0\0\0\0\0\0{", "a.pth", "safetensors"),  # the length of the header starts like a pickle
        (b"PK\x03\x04", "a.msgpack", "torch"),
        (b"\x80\x02}q", "a", "torch"),
        (b"\x82\xa6params", "a.bin", "msgpack"),
        (b"\x80", "a", "msgpack"),
        (b"", "a.safetensors", "safetensors"),
        (b"\x89HDF\r\n", "a.th", "torch"),
        (b"\x89HDF\r\n\x1a\n", "a.th", "keras"),
        (b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0a.npy", "a.pth", "npz"),
        (b"PK\x03\x04" + bytes(22) + b"\x0d\0\0\0metadata.json", "a.zip", "keras-archive"),
        (b"PK\x03\x04" + bytes(22) + b"\x0e\0\0\0model/data.pkl", "a.npz", "torch"),
        (b'{"weight_map": ', "a.json", "safetensors-index"),
        (b"{\x02\0\0\0\0\0\0{", "a.json", "safetensors"),  # a header of 635 bytes starts like JSON
        (b"\x0a\x01a", "a.caffemodel", "caffe"),
    ],
)
def test_the_first_bytes_determine_the_format_and_then_the_suffix(content, name, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert format_of(tmp_path / name).name == expected


def test_an_unknown_format_is_an_error_that_lists_the_formats(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"\x08\x07\x12")
    with pytest.raises(jaxft.UserError, match="has none of the formats safetensors, safetensors-index, npz, keras, "):
        format_of(Path(tmp_path / "weights.onnx"))


def test_a_file_without_naming_in_its_record_is_checked(toy, tmp_path):
    """The digest in a record without a naming is of the tensors under their published names, also in msgpack."""
    from flax.serialization import to_bytes

    from jaxft.weights.manifest import Manifest, digest_of, read_record, write_record
    from jaxft.weights.porting import to_tensors

    model, variables = toy
    manifest = Manifest("own", "", "toy", model.preprocessing)
    tree = {**variables, "metadata": write_record(manifest, to_tensors(model, variables))}
    (tmp_path / "own.msgpack").write_bytes(to_bytes(tree))
    record = read_record("own", tree["metadata"]["jaxft"])
    assert "naming" not in record and record["tensors_sha256"] == digest_of(to_tensors(model, variables))
    again, _ = load(tmp_path / "own.msgpack", model)
    assert np.array_equal(again["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])
    variables["params"]["head"]["kernel"] = variables["params"]["head"]["kernel"].at[0, 0].add(1)
    (tmp_path / "own.msgpack").write_bytes(to_bytes({**variables, "metadata": tree["metadata"]}))
    with pytest.raises(jaxft.UserError, match="damaged"):
        load(tmp_path / "own.msgpack", model)


def test_weights_from_a_read_only_format_are_delivered_in_other_formats(toy, tmp_path, monkeypatch):
    read_only = dataclasses.replace(OWN, write=None)
    monkeypatch.setattr(FORMATS, "entries", dict(FORMATS.entries))
    register_format(read_only)
    save_weights(tmp_path / "trained.safetensors", *toy)
    task = SimpleNamespace(manifest=SimpleNamespace(file="network.own", format="own"))
    assert deliver_weights(tmp_path / "trained.safetensors", tmp_path, task) == ["weights.pth", "weights.msgpack"]


PATHS = ("toy.safetensors.index.json", "toy.npz", "toy.h5", "toy.weights.h5", "toy.orbax", "toy.msgpack", "toy.tar")


@pytest.mark.parametrize("name", PATHS)
def test_the_commands_work_with_every_format(name, toy, tmp_path, capsys):
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    model, variables = toy
    save_weights(tmp_path / "source.safetensors", model, variables)
    path = str(tmp_path / name)
    assert main(["weights", "convert", str(tmp_path / "source.safetensors"), path]) == 0
    num_bytes = num_bytes_of(Path(path))
    assert f"{num_bytes:,} bytes" in capsys.readouterr().out
    assert main(["weights", "inspect", path]) == 0
    printed = capsys.readouterr().out
    assert f"{num_bytes:,} bytes" in printed and "its tensors match the sha256 in its metadata" in printed
    assert "toy: every tensor fits" in printed
    assert main(["weights", "convert", path, str(tmp_path / "copy.safetensors")]) == 0
    assert (tmp_path / "copy.safetensors").read_bytes() == (tmp_path / "source.safetensors").read_bytes()
    assert main(["weights", "convert", str(tmp_path / "source.safetensors"), path, "--force"]) == 0  # replaces the file
    network = jaxft.load(path)
    assert np.array_equal(network.variables["params"]["head"]["bias"], variables["params"]["head"]["bias"])


def test_verify_checks_a_folder(toy, tmp_path, capsys):
    save_weights(tmp_path / "toy.orbax", *toy)
    assert main(["weights", "verify", str(tmp_path / "toy.orbax")]) == 0
    assert "all 27 fit toy, 3 classes" in capsys.readouterr().out


def test_no_file_is_left_if_a_write_fails(toy, tmp_path, monkeypatch):
    save_weights(tmp_path / "toy.safetensors.index.json", *toy)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxft.weights.formats.safetensors_index.write_shard", fail)
    with pytest.raises(jaxft.UserError, match="no space is left"):
        save_weights(tmp_path / "toy.safetensors.index.json", *toy)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
