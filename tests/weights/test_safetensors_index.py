"""Sharded safetensors: an index and its shards."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.core import paths
from jaxft.weights import convert_weights, find_file, find_model, load, load_weights, save_weights
from jaxft.weights.files import num_bytes_of, sha256_of_weights

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(toy, tmp_path, monkeypatch):
    """Returns the folder of a network in shards of at most 2,000 bytes."""
    monkeypatch.setattr("jaxft.weights.formats.safetensors_index.SHARD_BYTES", 2000)
    (tmp_path / "net").mkdir()
    save_weights(tmp_path / "net" / INDEX, *toy)
    return tmp_path / "net"


def test_shards_have_all_tensors_and_are_read_as_one_file(sharded, toy, tmp_path):
    index = json.loads((sharded / INDEX).read_text())
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    sizes = {name: sum(array.nbytes for array in load_file(sharded / name).values()) for name in shards}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert all(size <= 2000 or len(load_file(sharded / name)) == 1 for name, size in sizes.items())
    model, variables = toy
    for path in (sharded, sharded / INDEX):
        assert find_file(path) == sharded / INDEX and find_model(path) == "toy"
        again, manifest = load(path, model)
        assert manifest.checked == "its tensors match the sha256 in its metadata"
        assert all(np.array_equal(leaf, paths.flatten(again)[name]) for name, leaf in paths.flatten(variables).items())
    save_weights(tmp_path / "one.safetensors", model, variables)
    convert_weights(sharded, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_size_and_digest_cover_every_shard(sharded):
    before = sha256_of_weights(sharded / INDEX)
    files = [sharded / INDEX, *sharded.glob("*.safetensors")]
    assert num_bytes_of(sharded / INDEX) == sum(file.stat().st_size for file in files)
    shard = sharded / "model-00002-of-00003.safetensors"
    shard = shard if shard.is_file() else sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    assert sha256_of_weights(sharded / INDEX) != before


def shard(folder):
    return sorted(folder.glob("*.safetensors"))[1]


def test_a_missing_shard_is_named(sharded, toy):
    missing = shard(sharded)
    missing.unlink()
    with pytest.raises(jaxft.UserError, match=f"the shard '{missing.name}' of '.*{INDEX}' is missing"):
        load_weights(sharded, toy[0])


def test_an_altered_shard_is_named(sharded, toy):
    altered = shard(sharded)
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    with pytest.raises(jaxft.UserError, match=rf"the shard '.*{altered.name}' is damaged: its sha256"):
        load_weights(sharded, toy[0])


@pytest.mark.parametrize("change", ["left out", "added"])
def test_a_shard_of_another_index_is_named(change, sharded, toy):
    """Hugging Face stores no digests of shards; then the names of the tensors are compared."""
    index = json.loads((sharded / INDEX).read_text())
    index["metadata"] = {"total_size": 1}
    (sharded / INDEX).write_text(json.dumps(index))
    tensors = load_file(shard(sharded))
    name = sorted(tensors)[0]
    changed = {other: array for other, array in tensors.items() if other != name} if change == "left out" else tensors
    save_file(changed | ({"more": np.zeros(1, np.float32)} if change == "added" else {}), shard(sharded))
    expected = name if change == "left out" else "more"
    with pytest.raises(jaxft.UserError, match=f"the shard '.*{shard(sharded).name}' does not fit .* about {expected};"):
        load_weights(sharded, toy[0])


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "b/c.safetensors", "..", "", "..\\a"])
def test_a_shard_outside_the_folder_is_refused(name, sharded, toy):
    shutil.copy(shard(sharded), sharded.parent / "a.safetensors")
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(jaxft.UserError, match=r"names the shard .*, which is not in its folder"):
        load_weights(sharded, toy[0])


def test_a_folder_without_exactly_one_index_is_refused(sharded, toy):
    shutil.copy(sharded / INDEX, sharded / "other.safetensors.index.json")
    with pytest.raises(jaxft.UserError, match=r"must be an Orbax checkpoint, or have exactly one .* \(it has 2\)"):
        load_weights(sharded, toy[0])
    (sharded / INDEX).unlink()
    assert find_file(sharded).name == "other.safetensors.index.json"
