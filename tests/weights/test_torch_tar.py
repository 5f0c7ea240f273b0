"""Tar archives of torch before 0.1.10, written here as that version wrote them, and read by torch for comparison."""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import numpy as np
import pytest

import jaxft
from jaxft.core import paths
from jaxft.models import create_model
from jaxft.weights import load
from jaxft.weights.formats import format_of
from jaxft.weights.formats.torch.reading import read_contents
from jaxft.weights.porting import to_tensors


class Named:
    """A global name in a pickle, such as torch.FloatStorage, without torch."""

    def __init__(self, name):
        self.name = name


class Pickler(pickle._Pickler):
    """Writes `Named` as the opcode GLOBAL, and arrays as persistent ids."""

    def __init__(self, file, ids):
        super().__init__(file, 2)
        self.ids = ids

    def persistent_id(self, value):
        return self.ids[id(value)] if isinstance(value, np.ndarray) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*value.name.rsplit(".", 1)).encode())
        else:
            super().save(value, save_persistent_id)


STORAGES = {"float32": "torch.FloatStorage", "int64": "torch.LongStorage"}


def dumped(value, ids=None):
    content = io.BytesIO()
    Pickler(content, ids or {}).dump(value)
    return content.getvalue()


def tar(state, views=()):
    """Returns the archive of a dict of arrays; `views` are (key, key of the other, offset, size) of more storages."""
    ids = {id(array): str(1000 + i) for i, array in enumerate(state.values())}
    storages, tensors = [dumped(len(state))], [dumped(len(state))]
    for i, array in enumerate(state.values()):
        kind = Named(STORAGES[array.dtype.name])
        storages += [dumped((i, "cpu", kind)), struct.pack("<q", array.size), array.tobytes()]
        strides = [step // array.itemsize for step in array.strides]
        numbers = [*array.shape, *strides, 0]
        key = next((view[0] for view in views if view[1] == i), i)
        tensors += [dumped((1000 + i, key, Named("torch.FloatTensor"))), struct.pack("<i4x", array.ndim)]
        tensors.append(struct.pack(f"<{len(numbers)}q", *numbers))
    entries = {"sys_info": dumped({"protocol_version": 1000}), "pickle": dumped(state, ids)}
    entries |= {"tensors": b"".join(tensors), "storages": b"".join([*storages, dumped(list(views))])}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, entry in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(entry)
            archive.addfile(info, io.BytesIO(entry))
    return content.getvalue()


STATE = OrderedDict(
    {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([2**40, -1]), "c": np.float32([[0.5]])}
)


def test_tensors_are_those_that_torch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "old.tar").write_bytes(tar(STATE, [(70, 0, 0, 6)]))
    expected = torch.load(tmp_path / "old.tar", weights_only=False)
    assert list(expected) == list(STATE)
    assert all(np.array_equal(tensor.numpy(), STATE[name]) for name, tensor in expected.items())
    contents = read_contents(tmp_path / "old.tar")
    assert contents.variant == "torch (tar)"
    for name, array in STATE.items():
        assert contents.tensors[name].dtype == array.dtype and np.array_equal(contents.tensors[name], array)


def test_a_network_is_loaded_whatever_the_suffix(tmp_path, toy):
    model, variables = toy
    tensors = OrderedDict((name, np.ascontiguousarray(array)) for name, array in to_tensors(model, variables).items())
    for name in ("toy.tar", "toy.pth.tar", "toy.bin"):
        (tmp_path / name).write_bytes(tar(tensors))
        assert format_of(tmp_path / name).name == "torch"
        again, manifest = load(tmp_path / name, create_model("toy", 3))
        assert manifest.format == "torch (tar)"
        for leaf, values in paths.flatten(variables).items():
            assert np.array_equal(paths.flatten(again)[leaf], values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: tar(STATE, [(70, 0, 3, 4)]), "has a view outside its storage"),
        (lambda content: tar(STATE)[:-11_000], "without 'storages'|damaged|truncated"),
        (lambda content: content.replace(b"storages", b"storagez"), "without 'storages'"),
    ],
)
def test_a_damaged_archive_is_refused(change, message, tmp_path):
    (tmp_path / "old.tar").write_bytes(change(tar(STATE)))
    with pytest.raises(jaxft.UserError, match=message):
        read_contents(tmp_path / "old.tar")


def test_an_archive_of_other_files_is_refused(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(__file__, "a.jpg")
    with pytest.raises(jaxft.UserError, match=r"is a tar archive without 'storages', which torch\.save writes"):
        read_contents(tmp_path / "images.tar")
