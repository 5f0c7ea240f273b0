"""Formats of weight files: detection and registration."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import draw_variables

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.recipes.finetune.delivery import deliver_weights
from jaxft.weights import convert_weights, find_model, load, save_weights
from jaxft.weights.formats import FORMATS, Contents, Format, format_of, register_format, writable_suffixes


def read_npz(path):
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        tensors = {name: file[name] for name in file.files if not name.startswith("metadata/")}
        texts = {name: str(file[name]) for name in file.files if name.startswith("metadata/")}
    return Contents(tensors, {name.removeprefix("metadata/"): text for name, text in texts.items()})


def write_npz(path, tensors, metadata):
    texts = {f"metadata/{name}": np.array(text) for name, text in metadata.items()}
    with path.open("wb") as file:
        np.savez(file, **tensors, **texts)


@pytest.fixture
def npz(monkeypatch):
    """Registers NumPy archives as a format during a test; their content is that of a zip archive, as in PyTorch."""
    others = dict(FORMATS.items())
    monkeypatch.setattr(FORMATS, "entries", {})
    register_format(
        Format("npz", (".npz",), lambda first_bytes: first_bytes.startswith(b"PK\x03\x04"), read_npz, write_npz)
    )
    monkeypatch.setattr(FORMATS, "entries", {**FORMATS.entries, **others})


@pytest.fixture
def toy():
    """Returns a network and its variables."""
    model = create_model("toy", num_classes=3)
    return model, draw_variables(model, 8)


def test_a_registered_format_can_be_read_written_and_converted(npz, toy, tmp_path):
    """A registration is enough for reading, writing, conversion and messages."""
    model, variables = toy
    save_weights(tmp_path / "one.safetensors", model, variables)
    convert_weights(tmp_path / "one.safetensors", tmp_path / "own.npz")
    assert find_model(tmp_path / "own.npz") == "toy"
    again, manifest = load(tmp_path / "own.npz", model)
    assert (manifest.naming, manifest.checked) == (
        "akamaster",
        "its tensors match the sha256 in its metadata",
    )
    ours, read = paths.flatten(variables), paths.flatten(again)
    assert ours.keys() == read.keys() and all(np.array_equal(ours[name], read[name]) for name in ours)
    assert ".npz" in writable_suffixes()
    with pytest.raises(jaxft.UserError, match=r"must end in \.npz, \.safetensors"):
        save_weights(tmp_path / "own.h5", model, variables)


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
    ],
)
def test_the_first_bytes_determine_the_format_and_then_the_suffix(content, name, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert format_of(tmp_path / name).name == expected


def test_an_unknown_format_is_an_error_that_lists_the_formats(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(jaxft.UserError, match="has none of the formats safetensors, msgpack, torch"):
        format_of(Path(tmp_path / "weights.h5"))


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
    read_only = Format("npz", (".npz",), lambda content: content.startswith(b"PK\x03\x04"), read_npz)
    monkeypatch.setattr(FORMATS, "entries", dict(FORMATS.entries))
    register_format(read_only)
    save_weights(tmp_path / "trained.safetensors", *toy)
    task = SimpleNamespace(manifest=SimpleNamespace(file="network.npz", format="npz"))
    assert deliver_weights(tmp_path / "trained.safetensors", tmp_path, task) == ["weights.pth", "weights.msgpack"]
