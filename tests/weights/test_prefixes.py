"""Prefixes of tensor names, tensors of other networks, and checkpoints with several state dicts, in each format."""

import pickle

import numpy as np
import pytest
from flax.serialization import to_bytes
from helpers import draw_variables
from safetensors.numpy import save_file

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.models.structure import expected_shapes
from jaxft.weights import ReadOptions, load, load_weights, read_network, to_tensors, verify_file
from jaxft.weights.formats.torch.writing import write_torch_file
from jaxft.weights.namings import find_fit


@pytest.fixture(scope="module")
def toy():
    """Returns a network and its variables."""
    model = create_model("toy", num_classes=3)
    return model, draw_variables(model, 8)


@pytest.fixture(scope="module")
def tensors(toy):
    """Returns the tensors of the toy network under their published names."""
    return to_tensors(*toy)


def write_safetensors(path, tensors):
    save_file(tensors, path)


def write_msgpack(path, tensors):
    path.write_bytes(to_bytes(paths.unflatten(tensors)))


WRITERS = {".safetensors": write_safetensors, ".pth": write_torch_file}


def flat(variables):
    return {name: np.asarray(leaf) for name, leaf in paths.flatten(variables).items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def backbone(variables):
    return {name: leaf for name, leaf in flat(variables).items() if not name.startswith("params/head/")}


def notes_of(manifest):
    """Returns the notes without the one about the preprocessing, which no file of these tests records."""
    (assumed,) = [note for note in manifest.notes if "does not record its preprocessing" in note]
    return tuple(note for note in manifest.notes if note != assumed)


def prefixed(tensors, prefix):
    return {f"{prefix}{name}": values for name, values in tensors.items()}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "encoder.",
        "module.module.",
        "model._orig_mod.backbone.",
        "a.b.7.",
    ],
)
def test_a_shared_prefix_is_removed_and_reported(prefix, suffix, toy, tensors, tmp_path):
    model, variables = toy
    path = tmp_path / f"toy{suffix}"
    WRITERS[suffix](path, prefixed(tensors, prefix))
    again, manifest = load(path, model)
    assert_equal(flat(again), flat(variables))
    assert notes_of(manifest) == (f"the tensor names of toy{suffix} have the prefix {prefix!r}, which jaxft removed.",)
    assert not manifest.foreign


@pytest.mark.parametrize("prefix", ["module/", "encoder/", "model/backbone/"])
def test_a_prefix_in_a_msgpack_file_is_removed(prefix, toy, tmp_path):
    model, variables = toy
    leaves = {}
    for name, leaf in flat(variables).items():
        collection, _, rest = name.partition("/")
        leaves[f"{collection}/{prefix}{rest}"] = leaf
    write_msgpack(tmp_path / "toy.msgpack", leaves)
    again, manifest = load(tmp_path / "toy.msgpack", model)
    assert_equal(flat(again), flat(variables))
    assert f"prefix {prefix!r}" in notes_of(manifest)[0]


def test_wrappers_inside_names_are_removed(toy, tensors, tmp_path):
    """FSDP, activation checkpointing and torch.compile insert components at any depth."""
    model, variables = toy
    wrapped = {
        name.replace("layer1.0.", "layer1._checkpoint_wrapped_module.0._orig_mod."): values
        for name, values in tensors.items()
    }
    save_file(prefixed(wrapped, "_fsdp_wrapped_module."), tmp_path / "toy.safetensors")
    again, manifest = load(tmp_path / "toy.safetensors", model)
    assert_equal(flat(again), flat(variables))
    assert "'_checkpoint_wrapped_module.', '_fsdp_wrapped_module.', '_orig_mod.'" in notes_of(manifest)[0]


def test_a_file_without_prefix_has_no_notes(toy, tensors, tmp_path):
    save_file(tensors, tmp_path / "toy.safetensors")
    assert notes_of(load(tmp_path / "toy.safetensors", toy[0])[1]) == ()


@pytest.fixture
def moco(tensors):
    """Returns the tensors of a contrastive checkpoint: two encoders with an MLP head, and a queue."""
    body = {name: values for name, values in tensors.items() if not name.startswith("linear.")}
    body |= {"linear.0.weight": np.ones((4, 4), np.float32), "linear.2.weight": np.ones((2, 4), np.float32)}
    momentum = {name: values + 1 for name, values in body.items()}
    queue = {"module.queue": np.ones((2, 8), np.float32), "module.queue_ptr": np.zeros(1, np.int64)}
    return prefixed(body, "module.encoder_q.") | prefixed(momentum, "module.encoder_k.") | queue


@pytest.mark.parametrize("suffix", WRITERS)
def test_two_networks_in_a_file_are_an_error_that_names_both_prefixes(suffix, moco, toy, tmp_path):
    WRITERS[suffix](tmp_path / f"toy{suffix}", moco)
    with pytest.raises(jaxft.UserError, match=r"'encoder_k\.', 'encoder_q\.'; select one with --state-dict") as error:
        load_weights(tmp_path / f"toy{suffix}", toy[0], head="new")
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("name", ["encoder_q", "encoder_q.", "module.encoder_q"])
def test_a_prefix_can_be_selected(name, moco, toy, tmp_path):
    model, variables = toy
    save_file(moco, tmp_path / "toy.safetensors")
    again, manifest = load(tmp_path / "toy.safetensors", model, head="new", options=ReadOptions(name))
    assert_equal(backbone(again), backbone(variables))
    assert "prefix 'module.encoder_q.'" in notes_of(manifest)[0]
    assert (
        "2 tensors, which belong to no part of toy: module.encoder_q.linear.0.weight, module." in notes_of(manifest)[1]
    )
    other, _ = load(tmp_path / "toy.safetensors", model, head="new", options=ReadOptions("encoder_k"))
    assert_equal(backbone(other), {name: leaf + 1 for name, leaf in backbone(variables).items()})
    with pytest.raises(jaxft.UserError, match="no state dict and no tensor names with the prefix 'encoder_x'"):
        load(tmp_path / "toy.safetensors", model, head="new", options=ReadOptions("encoder_x"))


FOREIGN = {"criterion.weight": (3,), "queue": (2, 8), "fc.1.weight": (3, 4), "aux_head.conv.bias": (5,)}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_foreign_tensors_are_listed_with_a_new_head_and_an_error_with_the_head(suffix, prefix, toy, tensors, tmp_path):
    model, variables = toy
    path = tmp_path / f"toy{suffix}"
    WRITERS[suffix](path, prefixed(tensors, prefix) | {name: np.ones(s, np.float32) for name, s in FOREIGN.items()})
    again, manifest = load(path, model, head="new")
    assert_equal(backbone(again), backbone(variables))
    start, _, listed = notes_of(manifest)[-1].partition(": ")
    assert start == f"in toy{suffix}, jaxft ignores 4 tensors, which belong to no part of toy"
    assert set(listed.removesuffix(" and 1 more.").split(", ")) < FOREIGN.keys()
    with pytest.raises(jaxft.UserError, match="4 tensors are left over"):
        load(path, model)


def test_an_mlp_head_counts_as_no_classifier(toy, tensors, tmp_path, capsys):
    _, variables = toy
    body = {name: values for name, values in tensors.items() if not name.startswith("linear.")}
    save_file(body | {"linear.1.weight": np.ones((3, 4), np.float32)}, tmp_path / "toy.safetensors")
    network = jaxft.load(tmp_path / "toy.safetensors")
    assert_equal(flat(network.variables), backbone(variables))
    assert "1 tensor, which belongs to no part of toy: linear.1.weight" in network.assumptions[1]
    load_weights(tmp_path / "toy.safetensors", network.model, head="new")
    assert capsys.readouterr().err.count("warning: in toy.safetensors, jaxft ignores 1 tensor") == 1


@pytest.mark.parametrize("extra", ["layer1.7.conv1.weight", "layer9.0.conv1.weight", "conv1.0.weight", "bn3.weight"])
def test_tensors_of_a_deeper_or_different_backbone_are_an_error_also_with_a_new_head(extra, toy, tensors, tmp_path):
    save_file(tensors | {extra: np.ones((2, 2), np.float32)}, tmp_path / "toy.safetensors")
    with pytest.raises(jaxft.UserError, match=f"{extra} is left over"):
        load_weights(tmp_path / "toy.safetensors", toy[0], head="new")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".msgpack"])
def test_a_wrong_depth_is_an_error_that_counts(suffix, tmp_path):
    """ResNet-34 has 8 more blocks than ResNet-18, of 2 convolutions and 2 batch norms with 4 tensors: 80 tensors."""
    deep, shallow = create_model("resnet34", 5), create_model("resnet18", 5)
    names = to_tensors(deep, shapes_as_zeros(deep))
    path = tmp_path / f"net{suffix}"
    if suffix == ".msgpack":
        write_msgpack(path, {name: np.zeros(1, np.float32) for name in deep.structure.shapes})
    else:
        WRITERS[suffix](path, {f"model.{name}": np.zeros(1, np.float32) for name in names})
    with pytest.raises(jaxft.UserError, match=r"80 tensors are left over: .* and 77 more") as error:
        load_weights(path, shallow, head="new")
    assert len(str(error.value)) <= 300


def shapes_as_zeros(model):
    """Returns variables of one zero per leaf, with the right numbers of dimensions."""
    shapes = expected_shapes(model, model.preprocessing.size_px)
    return paths.unflatten({name: np.zeros([1] * len(shape), np.float32) for name, shape in shapes.items()})


def test_the_counter_of_an_averaged_model_is_ignored(toy, tmp_path):
    torch = pytest.importorskip("torch")
    model, variables = toy
    net = torch.nn.Module()
    for name, values in to_tensors(*toy).items():
        register(torch, net, name.split("."), values)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    torch.save({"model": net.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "toy.pth")
    again, manifest = load(tmp_path / "toy.pth", model, options=ReadOptions("model_ema"))
    assert_equal(flat(again), flat(variables))
    assert "prefix 'module.'" in notes_of(manifest)[0]


def register(torch, module, keys, values):
    """Registers a buffer under nested modules."""
    for key in keys[:-1]:
        if key not in module._modules:
            module.add_module(key, torch.nn.Module())
        module = module._modules[key]
    module.register_buffer(keys[-1], torch.from_numpy(np.array(values)))


# --- several state dicts ----------------------------------------------------------------------------------------


def torch_checkpoint(path, new=True, **entries):
    torch = pytest.importorskip("torch")
    torch.save(as_torch(torch, entries), path, _use_new_zipfile_serialization=new)


def as_torch(torch, value):
    if isinstance(value, dict):
        return {name: as_torch(torch, entry) for name, entry in value.items()}
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(
    ("plain", "other"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("teacher", "student")],
)
def test_the_chosen_state_dict_is_reported_and_another_can_be_selected(plain, other, toy, tensors, tmp_path):
    model, variables = toy
    averaged = {name: values + 1 for name, values in tensors.items()}
    torch_checkpoint(tmp_path / "toy.pth", **{other: averaged, plain: tensors, "epoch": 3})
    again, manifest = load(tmp_path / "toy.pth", model)
    assert_equal(flat(again), flat(variables))
    assert notes_of(manifest) == (
        f"toy.pth has several state dicts: jaxft takes {plain!r}, not {other!r}; --state-dict (in Python, state_dict=) "
        "selects one.",
    )
    again, manifest = load(tmp_path / "toy.pth", model, options=ReadOptions(other))
    assert_equal(flat(again), {name: leaf + 1 for name, leaf in flat(variables).items()})
    assert notes_of(manifest) == ()
    with pytest.raises(jaxft.UserError, match=f"no state dict .*'swa'; it has {plain!r}, {other!r}"):
        load(tmp_path / "toy.pth", model, options=ReadOptions("swa"))


def test_a_state_dict_and_a_prefix_can_be_selected_together(toy, tensors, moco, tmp_path):
    torch_checkpoint(tmp_path / "toy.pth", state_dict=tensors, state_dict_ema=moco)
    again, _ = load(tmp_path / "toy.pth", toy[0], head="new", options=ReadOptions("state_dict_ema.encoder_k"))
    assert_equal(backbone(again), {name: leaf + 1 for name, leaf in backbone(toy[1]).items()})


def test_several_state_dicts_of_unknown_names_need_a_selection(toy, tensors, tmp_path):
    torch_checkpoint(tmp_path / "toy.pth", net_a=tensors, net_b=tensors)
    with pytest.raises(jaxft.UserError, match=r"several dicts of tensors, 'net_a', 'net_b'; --state-dict"):
        load(tmp_path / "toy.pth", toy[0])
    assert_equal(flat(load(tmp_path / "toy.pth", toy[0], options=ReadOptions("net_b"))[0]), flat(toy[1]))


def test_verify_reports_integrity_and_fit_separately(toy, tensors, tmp_path):
    save_file(tensors, tmp_path / "unknown.safetensors")
    verification = verify_file(tmp_path / "unknown.safetensors")
    assert [(check.name, check.passed) for check in verification.checks] == [("integrity", True), ("tensors", False)]
    assert verification.fits is False
    (tmp_path / "unknown.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    verification = verify_file(tmp_path / "unknown.safetensors")
    assert [check.name for check in verification.checks] == ["integrity"] and verification.fits is None


# --- objects beside the network ---------------------------------------------------------------------------------


def objects():
    """Returns objects of many classes, which checkpoints hold beside the network."""
    import argparse
    import collections
    import datetime
    import decimal
    import enum
    import fractions
    import pathlib
    import types
    import uuid

    return {
        "args": argparse.Namespace(lr=0.1, opt="sgd", nested=argparse.Namespace(a=1)),
        "counter": collections.Counter("abca"),
        "default": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2]),
        "set": {1, 2},
        "frozen": frozenset({1}),
        "array": np.arange(3),
        "empty": np.zeros((0, 2)),
        "scalar": np.float32(1.5),
        "random": np.random.RandomState(0).get_state(),
        "generator": np.random.default_rng(0),
        "when": datetime.datetime(2024, 1, 15, tzinfo=datetime.UTC),
        "took": datetime.timedelta(seconds=3),
        "path": pathlib.PurePosixPath("a/b"),
        "enum": enum.IntEnum,
        "flag": stat_flag(),
        "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3),
        "simple": types.SimpleNamespace(a=1),
        "uuid": uuid.UUID(int=1),
        "complex": 1 + 2j,
        "range": range(3),
        "slice": slice(1, 2),
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "function": np.sum,
        "own": Custom(),
        "tuple": Pair(1, 2),
    }


def stat_flag():
    import signal

    return signal.SIGTERM


class Custom:
    """A class with slots, state and items."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = {"a": [1]}

    def __getstate__(self):
        return None, {"value": self.value}

    def __setstate__(self, state):
        raise AssertionError("the state of an object in a file was set")


class Pair(tuple):
    """A tuple with a constructor of two arguments."""

    def __new__(cls, first, second):
        return super().__new__(cls, (first, second))

    def __getnewargs__(self):
        return self[0], self[1]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_objects_of_any_class_beside_the_network_are_dropped(new, protocol, toy, tensors, tmp_path):
    torch = pytest.importorskip("torch")
    model, variables = toy
    beside = objects() | {
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "complex_tensor": torch.ones(2, dtype=torch.complex64),
        "size": torch.Size([2]),
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], momentum=0.9).state_dict(),
    }
    checkpoint = beside | {"state_dict": as_torch(torch, tensors)}
    torch.save(checkpoint, tmp_path / "toy.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    again, manifest = load(tmp_path / "toy.pth", model)
    assert_equal(flat(again), flat(variables))
    assert notes_of(manifest) == ()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_parameters_and_tensors_with_attributes_are_read(new, toy, tensors, tmp_path):
    torch = pytest.importorskip("torch")
    state = as_torch(torch, tensors)
    state["conv1.weight"] = torch.nn.Parameter(state["conv1.weight"])
    state["conv1.weight"].tag = "x"
    state["linear.bias"].note = {"y": 1}
    state["bn1.running_mean"] = torch.nn.Buffer(state["bn1.running_mean"])
    torch.save(state, tmp_path / "toy.pth", _use_new_zipfile_serialization=new)
    assert_equal(flat(load(tmp_path / "toy.pth", toy[0])[0]), flat(toy[1]))


def test_an_object_in_place_of_a_tensor_of_the_network_is_an_error(toy, tensors, tmp_path):
    torch = pytest.importorskip("torch")
    state = as_torch(torch, tensors) | {"conv1.weight": tensors["conv1.weight"]}
    torch.save({"model": state}, tmp_path / "toy.pth")
    with pytest.raises(jaxft.UserError, match=r"'conv1\.weight' as an object of numpy\..*, which is code"):
        load(tmp_path / "toy.pth", toy[0])
    state["conv1.weight"] = torch.from_numpy(tensors["conv1.weight"]).to(torch.complex64)
    torch.save({"model": state}, tmp_path / "toy.pth")
    with pytest.raises(jaxft.UserError, match=r"'conv1\.weight' as an object of torch\.ComplexFloatStorage"):
        load(tmp_path / "toy.pth", toy[0])


def test_a_whole_pickled_network_is_an_error_that_names_its_class(toy, tmp_path):
    torch = pytest.importorskip("torch")
    for name, whole in {"a": torch.nn.Linear(2, 2), "b": {"model": torch.nn.Linear(2, 2)}}.items():
        torch.save(whole, tmp_path / f"{name}.pth")
        with pytest.raises(jaxft.UserError, match=r"refers to torch\.nn\.modules\.linear\.Linear, which is code"):
            read_network(tmp_path / f"{name}.pth", "toy")


def test_the_pickles_above_would_set_a_state():
    with pytest.raises(AssertionError, match="was set"):
        pickle.loads(pickle.dumps(Custom()))


def test_a_naming_with_prefix_is_found(toy, tensors):
    fit = find_fit([f"net.{name}" for name in tensors], toy[0], "file")
    assert fit.is_complete and fit.naming.name == "akamaster" and fit.removed == ("net.",)
    assert fit.names["conv1.weight"] == "net.conv1.weight"
