"""Orbax checkpoints: variables, whole training states, and folders that are damaged."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.serialization import to_bytes
from flax.training import train_state

import jaxft
from jaxft.core import paths
from jaxft.weights import convert_weights, find_file, find_model, load, load_weights, save_weights
from jaxft.weights.files import num_bytes_of, sha256_of_weights
from jaxft.weights.formats.trees import leaf_names


class TrainState(train_state.TrainState):
    batch_stats: dict


@pytest.fixture(scope="module")
def state(toy):
    _, variables = toy
    tx = optax.adamw(0.1)
    return TrainState.create(apply_fn=None, params=variables["params"], batch_stats=variables["batch_stats"], tx=tx)


def assert_equal(variables, expected):
    flat, leaves = paths.flatten(variables), paths.flatten(expected)
    assert flat.keys() == leaves.keys() and all(np.array_equal(flat[name], leaf) for name, leaf in leaves.items())


def write(kind, folder, toy, state):
    """Writes a checkpoint of the toy network, and returns the path to load."""
    _, variables = toy
    match kind:
        case "standard":
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder, variables)
        case "files":
            with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
                checkpointer.save(folder, variables)
        case "zarr3":
            with ocp.PyTreeCheckpointer(use_ocdbt=True, use_zarr3=True) as checkpointer:
                checkpointer.save(folder, variables)
        case "train state":
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(folder, state)
        case "variables as params":
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(folder, {"params": variables, "step": 3, "name": "mine"})
        case "manager":
            with ocp.CheckpointManager(folder) as manager:
                manager.save(7, args=ocp.args.StandardSave(variables))
            return folder / "7"
    return folder


@pytest.mark.parametrize("kind", ["standard", "files", "zarr3", "train state", "variables as params", "manager"])
def test_checkpoints_of_every_kind_are_read(kind, toy, state, tmp_path):
    path = write(kind, tmp_path / "toy", toy, state)
    again, manifest = load(path, toy[0])
    assert (manifest.format, manifest.layout) == ("orbax", "torch") and manifest.assumed
    assert_equal(again, toy[1])


def test_orbax_restores_written_checkpoints(toy, tmp_path):
    model, variables = toy
    save_weights(tmp_path / "net.orbax", model, variables)
    assert find_model(tmp_path / "net.orbax") == "toy"
    with ocp.StandardCheckpointer() as checkpointer:
        assert_equal(checkpointer.restore(tmp_path / "net.orbax"), variables)
    convert_weights(tmp_path / "net.orbax", tmp_path / "one.safetensors")
    save_weights(tmp_path / "two.safetensors", model, variables)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    convert_weights(tmp_path / "two.safetensors", tmp_path / "net.orbax")  # replaces the folder
    assert_equal(load_weights(tmp_path / "net.orbax", model), variables)
    assert not list(tmp_path.glob(".tmp*"))


def test_the_digest_covers_names_and_bytes_of_all_files(toy, state, tmp_path):
    path = write("files", tmp_path / "toy", toy, state)
    before, files = sha256_of_weights(path), [file for file in path.rglob("*") if file.is_file()]
    assert num_bytes_of(path) == sum(file.stat().st_size for file in files)
    chunk = next(file for file in files if file.parent.name == "params.head.kernel" and not file.name.startswith("."))
    chunk.rename(chunk.with_name("0.1"))
    renamed = sha256_of_weights(path)
    chunk.with_name("0.1").rename(chunk)
    assert renamed != before == sha256_of_weights(path)
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    assert sha256_of_weights(path) != before


def test_a_changed_value_is_found(toy, tmp_path):
    model, variables = toy
    save_weights(tmp_path / "net.orbax", model, variables)
    metadata = (tmp_path / "net.orbax" / "_CHECKPOINT_METADATA").read_bytes()
    changed = {
        **variables,
        "params": {**variables["params"], "head": {"kernel": jnp.zeros((8, 3)), "bias": jnp.ones(3)}},
    }
    save_weights(tmp_path / "net.orbax", model, changed)
    (tmp_path / "net.orbax" / "_CHECKPOINT_METADATA").write_bytes(metadata)
    with pytest.raises(jaxft.UserError, match="its tensors do not match the sha256 in its metadata"):
        load_weights(tmp_path / "net.orbax", model)


def test_declared_sizes_are_bounded_by_the_size_of_the_folder(toy, state, tmp_path):
    path = write("files", tmp_path / "toy", toy, state)
    description = path / "params.head.bias" / ".zarray"
    changed = json.loads(description.read_text()) | {"shape": [2**40], "fill_value": 0}
    description.write_text(json.dumps(changed))
    with pytest.raises(jaxft.UserError, match=r"declares 4,398,046,511,104 bytes of values"):
        load_weights(path, toy[0])


def test_an_array_outside_the_folder_is_refused(toy, state, tmp_path):
    path = write("files", tmp_path / "toy", toy, state)
    text = (path / "_METADATA").read_text()
    (path / "_METADATA").write_text(text.replace('"key": "head"', '"key": "../../head"'))
    with pytest.raises(jaxft.UserError, match=r"has an array with the name"):
        load_weights(path, toy[0])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, toy):
    with pytest.raises(jaxft.UserError, match=r"must be an Orbax checkpoint, or have exactly one .* \(it has 0\)"):
        find_file(tmp_path)


def test_msgpack_files_of_training_states_are_read(toy, state, tmp_path):
    model, variables = toy
    trees = {"state": state, "inner": {"params": variables, "step": 3}, "hugging_face": variables["params"]}
    for name, tree in trees.items():
        (tmp_path / f"{name}.msgpack").write_bytes(to_bytes(tree))
        if name != "hugging_face":
            assert_equal(load_weights(tmp_path / f"{name}.msgpack", model), variables)
    with pytest.raises(
        jaxft.UserError, match=r"10 tensors are missing: batch_stats/stage1/block1/bn1/mean, .* and 7 more"
    ):
        load_weights(tmp_path / "hugging_face.msgpack", model)


def test_a_msgpack_file_with_keys_of_several_types_is_refused(toy, tmp_path):
    (tmp_path / "toy.msgpack").write_bytes(b"\x82\xa1a\x01\x02\x03")  # {"a": 1, 2: 3}
    with pytest.raises(jaxft.UserError, match="damaged, or not a msgpack file of Flax"):
        load_weights(tmp_path / "toy.msgpack", toy[0])


def test_only_arrays_of_the_network_have_leaf_names():
    assert leaf_names(["step", "params/a/kernel", "opt_state/0/mu/a/kernel", "batch_stats/a/mean"]) == {
        "params/a/kernel": "params/a/kernel",
        "batch_stats/a/mean": "batch_stats/a/mean",
    }
    assert leaf_names(["params/params/a", "params/batch_stats/b", "opt_state/0/mu/params/a"]) == {
        "params/params/a": "params/a",
        "params/batch_stats/b": "batch_stats/b",
    }
    assert leaf_names(["model/params/a", "step"]) == {"model/params/a": "params/a"}
    assert leaf_names(["encoder/kernel"]) == {"encoder/kernel": "params/encoder/kernel"}


@pytest.mark.parametrize("name", ["toy.orbax", "toy.npz"])
def test_a_folder_with_other_files_is_not_replaced(name, toy, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").touch()
    with pytest.raises(jaxft.UserError, match="is a folder with other files than a checkpoint"):
        save_weights(tmp_path / name, *toy)
    assert (tmp_path / name / "thesis.tex").exists()
