"""PyTorch files without PyTorch: tensors are bit-identical, and no other object of a file has an effect."""

import contextlib
import copyreg
import io
import marshal
import math
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.core.errors import UserError
from jaxft.weights.formats.torch.reading import read_torch_file, read_torch_metadata
from jaxft.weights.formats.torch.writing import write_torch_file

# --- pickles by hand --------------------------------------------------------------------------------------------


def value(made):
    """Returns the opcodes that build a Python value."""
    return pickle.dumps(made, 2)[2:-1]


def raw(content):
    return pickle.dumps(content, 3)[2:-1]


def name(module, attribute):
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def dotted(module, attribute):
    """Returns the opcodes of protocol 4 that look up a name with any number of dots."""
    return value(module) + value(attribute) + pickle.STACK_GLOBAL


def call(function, *args):
    """Returns the opcodes that call the object of the opcodes `function` with the objects of `args`."""
    return function + pickle.MARK + b"".join(args) + pickle.TUPLE + pickle.REDUCE


def items(entries):
    """Returns the opcodes that build a dict, whose values are the objects of opcodes."""
    pairs = [value(key) + made for key, made in entries.items()]
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(pairs) + pickle.SETITEMS


def program(opcodes, protocol=4):
    return pickle.PROTO + bytes([protocol]) + opcodes + pickle.STOP


EMPTY = call(name("collections", "OrderedDict"))


def storage(key="0", kind="FloatStorage", count=6, module="torch", rest=b""):
    saved = [value("storage"), name(module, kind), value(key), value("cpu"), value(count), rest]
    return pickle.MARK + b"".join(saved) + pickle.TUPLE + pickle.BINPERSID


def tensor(stored=None, offset=0, size=(2, 3), stride=(3, 1)):
    """Returns the opcodes of a tensor as torch.save writes them; by default with six float32 values."""
    made = storage() if stored is None else stored
    return call(
        name("torch._utils", "_rebuild_tensor_v2"), made, value(offset), value(size), value(stride), b"\x89", EMPTY
    )


SIX = np.arange(6, dtype=np.float32)


def zipped(opcodes, records=None):
    """Returns a zip archive around a pickle, as torch.save writes it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", program(opcodes))
        for key, stored in ({"data/0": SIX.tobytes()} if records is None else records).items():
            archive.writestr(f"archive/{key}", stored)
    return content.getvalue()


def legacy(opcodes, storages=None):
    """Returns a file around a pickle, as torch before 1.6 writes it; `storages` are arrays by key."""
    storages = {"0": SIX} if storages is None else storages
    header = [pickle.dumps(made, 2) for made in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    numbers = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join([*header, program(opcodes), pickle.dumps(list(storages), 2), *numbers])


FORMATS = {"zip": zipped, "legacy": legacy}


@pytest.fixture
def read(tmp_path):
    """Returns a function that writes bytes to a file and reads its tensors."""

    def read(content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_torch_file(path)

    return read


@pytest.fixture
def refused(read):
    """Returns a function that asserts that bytes are refused with a one-line message that contains a text."""

    def refused(content, message=""):
        with pytest.raises(UserError) as error:
            read(content)
        assert "weights.pth" in str(error.value) and message in str(error.value), error.value
        assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 600

    return refused


def assert_same_bits(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    assert one.tobytes() == other.tobytes()


# --- hostile pickles --------------------------------------------------------------------------------------------


class Marks:
    """Creates a folder when it is created or when its state is set."""

    def __new__(cls, path=None):
        if path is not None:
            Path(path).mkdir()
        return super().__new__(cls)

    def __setstate__(self, path):
        Path(path).mkdir()


def code(mark):
    return f"import os; os.mkdir({str(mark)!r})"


def mkdir(mark):
    return call(name("os", "mkdir"), value(str(mark)))


def beside(mark, suffix, content):
    """Returns the opcodes of the path of a new file next to the mark, which a payload reads."""
    path = Path(mark).with_suffix(suffix)
    path.write_bytes(content)
    return value(str(path))


def npy(mark):
    content = io.BytesIO()
    np.save(content, np.array([Reduces(mark)], dtype=object), allow_pickle=True)
    return content.getvalue()


class Reduces:
    """Creates a folder when its pickle is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


# The name in the error of each pickle (empty if the object around the code is a dict), and the opcodes of the code that
# it would run.
HOSTILE = {
    "posix_system": ("posix.system", lambda m: call(name("posix", "system"), value(f"mkdir '{m}'"))),
    "os_system": ("os.system", lambda m: call(name("os", "system"), value(f"mkdir '{m}'"))),
    "os_mkdir": ("os.mkdir", mkdir),
    "os_symlink": ("os.symlink", lambda m: call(name("os", "symlink"), value("nowhere"), value(str(m)))),
    "check_call": ("subprocess.check_call", lambda m: call(name("subprocess", "check_call"), value(["mkdir", str(m)]))),
    "getoutput": ("subprocess.getoutput", lambda m: call(name("subprocess", "getoutput"), value(f"mkdir '{m}'"))),
    "eval": ("builtins.eval", lambda m: call(name("builtins", "eval"), value(f"__import__('os').mkdir({str(m)!r})"))),
    "exec": ("builtins.exec", lambda m: call(name("builtins", "exec"), value(code(m)))),
    "python2": (
        "__builtin__.eval",
        lambda m: pickle.PROTO
        + b"\x02"
        + call(name("__builtin__", "eval"), value(f"__import__('os').mkdir({str(m)!r})")),
    ),
    "compile": (
        "builtins.exec",
        lambda m: call(
            name("builtins", "exec"), call(name("builtins", "compile"), value(code(m)), value("x"), value("exec"))
        ),
    ),
    "getattr": (
        "builtins.getattr",
        lambda m: call(
            call(name("builtins", "getattr"), call(name("builtins", "__import__"), value("os")), value("mkdir")),
            value(str(m)),
        ),
    ),
    "import": ("os.mkdir", lambda m: call(name("builtins", "__import__"), value("os")) + b"0" + mkdir(m)),
    "import_module": (
        "os.mkdir",
        lambda m: call(name("importlib", "import_module"), value("os")) + b"0" + mkdir(m),
    ),
    "methodcaller": (
        "operator.methodcaller",
        lambda m: call(
            call(name("operator", "methodcaller"), value("mkdir"), value(str(m))),
            call(name("importlib", "import_module"), value("os")),
        ),
    ),
    "partial": (
        "functools.partial",
        lambda m: call(call(name("functools", "partial"), name("os", "mkdir"), value(str(m)))),
    ),
    "reduce": (
        "functools.reduce",
        lambda m: call(name("functools", "reduce"), name("os", "mkdir"), value([str(m), 0o700])),
    ),
    "map": (
        "builtins.list",
        lambda m: call(
            name("builtins", "list"), call(name("builtins", "map"), name("os", "mkdir"), value([str(m)]))
        ),
    ),
    "run_path": (
        "runpy.run_path",
        lambda m: call(name("runpy", "run_path"), beside(m, ".py", code(m).encode())),
    ),
    "loads": (
        "pickle.loads",
        lambda m: call(name("pickle", "loads"), raw(program(mkdir(m)))),
    ),
    "marshal": (
        "types.FunctionType",
        lambda m: call(
            call(
                name("types", "FunctionType"),
                call(name("marshal", "loads"), raw(marshal.dumps(compile(code(m), "x", "exec")))),
                items({"__builtins__": name("builtins", "__dict__")}),
            )
        ),
    ),
    "timeit": ("timeit.timeit", lambda m: call(name("timeit", "timeit"), value("pass"), value(code(m)))),
    "copyfile": ("shutil.copyfile", lambda m: call(name("shutil", "copyfile"), value(__file__), value(str(m)))),
    "zipfile": ("zipfile.ZipFile", lambda m: call(name("zipfile", "ZipFile"), value(str(m)), value("w"))),
    "touch": (
        "pathlib.Path.touch",
        lambda m: call(dotted("pathlib", "Path.touch"), call(name("pathlib", "PosixPath"), value(str(m)))),
    ),
    "environ": (
        "os.environ.setdefault",
        lambda m: call(dotted("os", "environ.setdefault"), value(Path(m).name), value("set")),
    ),
    "numpy_load": (
        "numpy.load",
        lambda m: call(name("numpy", "load"), beside(m, ".npy", npy(m)), value(None), value(True)),
    ),
    "numpy_savetxt": ("numpy.savetxt", lambda m: call(name("numpy", "savetxt"), value(str(m)), value([1.0]))),
    "runstring": (
        "numpy.testing._private.utils.runstring",
        lambda m: call(name("numpy.testing._private.utils", "runstring"), value(code(m)), value({})),
    ),
    "own_function": (
        "jaxft.core.files.write_once",
        lambda m: call(
            name("jaxft.core.files", "write_once"),
            call(name("pathlib", "PosixPath"), value(str(m))),
            raw(b"x"),
        ),
    ),
    "through_a_module": ("shutil.os.mkdir", lambda m: call(dotted("shutil", "os.mkdir"), value(str(m)))),
    "through_an_allowed_module": (
        "numpy._core.multiarray.functools.reduce",
        lambda m: call(
            dotted("numpy._core.multiarray", "functools.reduce"), name("os", "mkdir"), value([str(m), 0o700])
        ),
    ),
    "through_an_allowed_module's_function": (
        "collections.Counter.__init__.__builtins__.get",
        lambda m: call(
            call(dotted("collections", "Counter.__init__.__builtins__.get"), value("exec")), value(code(m))
        ),
    ),
    "a_remembered_name": (
        "os.mkdir",
        lambda m: call(
            value("mkdir") + b"q\x05" + b"0" + value("os") + b"q\x06" + b"0" + b"h\x06h\x05" + pickle.STACK_GLOBAL,
            value(str(m)),
        ),
    ),
    "a_subclass": (
        "builtins.type",
        lambda m: call(
            call(
                name("builtins", "type"),
                value("X"),
                name("collections", "OrderedDict") + pickle.TUPLE1,
                items({"__setstate__": name("builtins", "exec")}),
            )
        )
        + value(code(m))
        + pickle.BUILD,
    ),
    "a_state_that_sets_states": (
        "",
        lambda m: EMPTY
        + items({"__setstate__": name("builtins", "exec")})
        + pickle.BUILD
        + value(code(m))
        + pickle.BUILD,
    ),
    "INST": ("os.mkdir", lambda m: pickle.MARK + value(str(m)) + pickle.INST + b"os\nmkdir\n"),
    "OBJ": ("os.mkdir", lambda m: pickle.MARK + name("os", "mkdir") + value(str(m)) + pickle.OBJ),
    "NEWOBJ": (
        f"{__name__}.Marks",
        lambda m: name(__name__, "Marks") + value(str(m)) + pickle.TUPLE1 + pickle.NEWOBJ,
    ),
    "NEWOBJ_EX": (
        f"{__name__}.Marks",
        lambda m: name(__name__, "Marks") + b")" + items({"path": value(str(m))}) + pickle.NEWOBJ_EX,
    ),
    "BUILD": (
        f"{__name__}.Marks",
        lambda m: call(name(__name__, "Marks")) + value(str(m)) + pickle.BUILD,
    ),
    "EXT1": ("the pickle opcode EXT1", lambda m: call(pickle.EXT1 + b"\xf1", value(str(m)))),
    "EXT2": ("the pickle opcode EXT2", lambda m: call(pickle.EXT2 + b"\xf1\x00", value(str(m)))),
    "EXT4": ("the pickle opcode EXT4", lambda m: call(pickle.EXT4 + b"\xf1\x00\x00\x00", value(str(m)))),
    "among_tensors": (
        "",
        lambda m: EMPTY + items({"_metadata": mkdir(m), "weight": value(1)}) + pickle.BUILD,
    ),
    "as_a_key": ("", lambda m: pickle.EMPTY_DICT + mkdir(m) + value(1) + pickle.SETITEM),
    "in_a_list_of_pairs": (
        "",
        lambda m: call(name("collections", "OrderedDict"), b"](](" + value("x") + mkdir(m) + b"ee"),
    ),
    "torch_load_from_bytes": (
        "torch.storage._load_from_bytes",
        lambda m: call(name("torch.storage", "_load_from_bytes"), raw(legacy(mkdir(m)))),
    ),
    "torch_collect_env": (
        "torch.utils.collect_env.run",
        lambda m: call(name("torch.utils.collect_env", "run"), value(f"mkdir '{m}'")),
    ),
}  # fmt: skip


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """Returns the path that a payload would create, and a function that checks it; extension 0xf1 is os.mkdir."""
    mark = tmp_path / f"mark_{tmp_path.name}"
    monkeypatch.delenv(mark.name, raising=False)
    copyreg.add_extension("os", "mkdir", 0xF1)
    yield mark, lambda: os.path.lexists(mark) or mark.name in os.environ
    copyreg.remove_extension("os", "mkdir", 0xF1)
    os.environ.pop(mark.name, None)


def test_there_are_many_hostile_pickles():
    assert len(HOSTILE) >= 45


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", HOSTILE)
def test_no_code_runs_and_the_error_names_it(case, form, marked, refused):
    name_in_error, opcodes = HOSTILE[case]
    mark, was_left = marked
    message = f"refers to {name_in_error}, which is code; jaxft reads only tensors:" if name_in_error else "no dict of"
    refused(FORMATS[form](opcodes(mark), {}), message)
    assert not was_left()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", HOSTILE)
def test_code_beside_the_network_is_dropped_and_does_not_run(case, form, marked, read):
    mark, was_left = marked
    checkpoint = items({"args": HOSTILE[case][1](mark), "state_dict": items({"w": tensor()})})
    np.testing.assert_array_equal(read(FORMATS[form](checkpoint))["w"], SIX.reshape(2, 3))
    assert not was_left()


@pytest.mark.parametrize("case", HOSTILE)
def test_pickle_itself_runs_the_code(case, marked):
    if case.startswith("torch"):
        pytest.importorskip("torch")
    mark, was_left = marked
    with contextlib.suppress(Exception):
        pickle.loads(program(HOSTILE[case][1](mark)))
    assert was_left()


@pytest.mark.parametrize("position", range(5), ids=["magic", "protocol", "system", "object", "keys"])
def test_no_code_runs_in_any_pickle_of_the_legacy_format(position, marked, refused):
    mark, was_left = marked
    parts = [pickle.dumps(made, 2) for made in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    parts[position] = program(mkdir(mark), 2)
    refused(b"".join(parts))
    assert not was_left()


# --- bombs ------------------------------------------------------------------------------------------------------


def nested_tuples():
    """Returns a nested tuple of 2 ** 60 leaves, both halves of which are the same tuple; hashing it takes forever."""
    return b"N" + b"2\x86" * 60


def compressed(opcodes):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(opcodes))
        archive.writestr("archive/data/0", bytes(50_000_000))
    return content.getvalue()


def overlapping():
    """Returns an archive whose directory has the same megabyte under a hundred names."""
    content = bytearray(zipped(items({"w": tensor()}), {"data/0": bytes(1_000_000)}))
    start, size = struct.unpack_from("<II", content, len(content) - 10)[::-1]
    directory = bytes(content[start : start + size])
    last = directory[directory.rindex(b"PK\x01\x02") :]
    end = bytearray(content[start + size :])
    struct.pack_into("<HHI", end, 8, 102, 102, size + 100 * len(last))
    return bytes(content[:start]) + directory + last * 100 + bytes(end)


def repeated_pairs():
    """Returns a list of 10,000 pairs, from which 10,000 OrderedDicts are built."""
    pairs = b"](" + b"".join(b"](" + value(str(i)) + b"Ne" for i in range(10_000)) + b"e"
    ordered_dict = name("collections", "OrderedDict") + b"h\x01\x85R0"
    return pairs + b"q\x01" + ordered_dict * 10_000


BOMBS = {
    "memo": lambda: zipped(value(1) + pickle.LONG_BINPUT + b"\xff\xff\xff\xff"),
    "bytearray": lambda: zipped(pickle.BYTEARRAY8 + struct.pack("<Q", 2**40)),
    "bytes": lambda: zipped(pickle.BINBYTES8 + struct.pack("<Q", 2**40)),
    "text": lambda: zipped(pickle.BINUNICODE8 + struct.pack("<Q", 2**62)),
    "long": lambda: zipped(pickle.LONG4 + struct.pack("<i", 2**31 - 1)),
    "digits": lambda: zipped(pickle.LONG + b"9" * 100_000 + b"L\n"),
    "key": lambda: zipped(pickle.EMPTY_DICT + nested_tuples() + b"Ns"),
    "deep": lambda: zipped(b"}" + value("model") + (b"}" + value("model")) * 50_000 + b"N" + b"s" * 50_001),
    "itself": lambda: zipped(b"}q\x07" + value("model") + b"h\x07s"),
    "steps": lambda: zipped(b"}0" * 600_000),
    "pairs": lambda: zipped(repeated_pairs()),
    "compressed": lambda: compressed(items({"w": tensor(storage(count=12_500_000), size=(12_500_000,), stride=(1,))})),
    "overlapping": overlapping,
    "metadata": lambda: zipped(items({"w": tensor()}), {"metadata.json": b"[" * 100_000}),
    "huge_shape": lambda: zipped(items({"w": tensor(size=(2**40,), stride=(1,))})),
    "huge_product": lambda: zipped(items({"w": tensor(size=(2**33, 2**33), stride=(0, 0))})),
    "huge_and_empty": lambda: zipped(items({"w": tensor(size=(2**47, 2**47, 0), stride=(0, 0, 0))})),
    "repeated": lambda: zipped(items({"w": tensor(size=(100_000, 6), stride=(0, 1))})),
    "huge_storage": lambda: legacy(items({"w": tensor(storage(count=2**40))}), {"0": SIX}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BOMBS)
def test_reading_needs_no_more_memory_than_the_file_size(case, tmp_path):
    path = tmp_path / "bomb.pth"
    path.write_bytes(BOMBS[case]())
    allowed = 20_000_000 + 4 * path.stat().st_size
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bomb\.pth"):
        read_torch_file(path)
        read_torch_metadata(path)
    assert tracemalloc.get_traced_memory()[1] < allowed
    tracemalloc.stop()


# --- invalid tensors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "described",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**60},
        {"offset": None},
        {"offset": 0.0},
        {"offset": True},
        {"size": (2, 4)},
        {"size": (3, 3)},
        {"size": (-2, -3)},
        {"size": (2, 3.0)},
        {"size": [2, 3]},
        {"size": (6,)},
        {"size": "23"},
        {"size": (2**31, 2**33), "stride": (1, 1)},
        {"size": (1,) * 65, "stride": (1,) * 65},
        {"size": (-1, 0)},
        {"stride": (-3, 1)},
        {"stride": (4, 1)},
        {"stride": (3, 2)},
        {"stride": (2**47, 2**47)},
        {"stride": (2**61, 1)},
        {"stride": (3,)},
        {"stride": None},
    ],
    ids=str,
)
def test_a_tensor_larger_than_its_storage_is_refused(described, form, refused):
    refused(FORMATS[form](items({"layer.weight": tensor(**described)})), "'layer.weight'")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (storage(count=7), "too few values for the storage '0'"),
        (storage(kind="DoubleStorage"), "too few values for the storage '0'"),
        (storage(key="9"), "no values for the storage '9'"),
        (storage(key="../../etc/passwd"), "no values for the storage '../../etc/passwd'"),
        (storage(key="a\nb"), r"no values for the storage 'a\\nb'"),
        (storage(count=-6), "a storage without"),
        (storage(count=2**60), "a storage without"),
        (storage(rest=value(("1", 0, 3))), "a view of another storage"),
        (value("archive/data/0") + pickle.BINPERSID, "not a storage"),
        (pickle.EMPTY_TUPLE + pickle.BINPERSID, "not a storage"),
        (value(("storage", "FloatStorage", "0", "cpu", 6)) + pickle.BINPERSID, "a storage without"),
        (storage(kind="QInt8Storage"), "no dict of named tensors"),
        (storage(kind="ComplexFloatStorage"), "no dict of named tensors"),
        (storage(kind="Size"), "refers to torch.Size"),
        (storage() + b"0" + storage(kind="IntStorage"), "in two different ways"),
        (value(None), "invalid description of the tensor 'w'"),
        (value((1, 2)), "invalid description of the tensor 'w'"),
    ],
)  # fmt: skip
def test_an_invalid_storage_is_refused(made, message, refused):
    refused(zipped(items({"w": tensor(made)})), message)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "opcodes",
    [
        b"",
        b"N",
        value([1, 2]),
        b"0",
        b"1",
        b"2",
        b"t",
        b"e",
        b"h\x00",
        b"R",
        b"b",
        b"Q",
        b"P0\n",
        b"\x93",
        value(1) + value(2) + pickle.STACK_GLOBAL,
        value(1) + value((1,)) + pickle.REDUCE,
        value(1) + b"Nb",
        value(()) + b"Na",
        value({}) + b"Na",
        b"]NNs",
        EMPTY + b"NNa",
        name("torch._utils", "_rebuild_tensor_v2"),
        call(name("torch._utils", "_rebuild_tensor_v2")),
        call(name("torch._utils", "_rebuild_parameter")),
        call(name("torch", "float32"), value(1)),
        call(name("collections", "OrderedDict"), value(5)),
        call(name("collections", "OrderedDict"), value([1, 2])),
        name("collections", "OrderedDict") + b"]R",
        name("collections", "OrderedDict") + b")" + pickle.NEWOBJ,
        items({"a": EMPTY, "b": value("x" * 1000), "é\n": value(1)}),
        pickle.EMPTY_SET,
        b"S'\\d'\n",
        b"I" + b"9" * 5000 + b"\n",
        b"\xff",
    ],
    ids=repr,
)  # fmt: skip
def test_a_pickle_without_tensors_is_refused(opcodes, form, refused):
    refused(FORMATS[form](opcodes))


def test_containers_of_other_programs_are_refused(refused):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(content.getvalue(), "0 data.pkl files")
    refused(bytes(257) + b"ustar" + bytes(300), "is a damaged tar archive")
    refused(pickle.dumps({"weight": [1.0]}), "a pickle, but not from torch.save")
    refused(b"", "not a file of torch.save")
    refused(b"\x89PNG\r\n\x1a\n", "not a file of torch.save")


def test_the_error_lists_where_tensors_are_expected(refused):
    message = "has no dict of named tensors: it has 'epoch', 'arch'."
    refused(zipped(items({"epoch": value(3), "arch": value("resnet18")})), message)


# --- files of torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_tensor_is_read_by_its_strides(form, read):
    made = items(
        {
            "whole": tensor(),
            "transposed": tensor(size=(3, 2), stride=(1, 3)),
            "column": tensor(offset=2, size=(2,), stride=(3,)),
            "scalar": tensor(offset=5, size=(), stride=()),
            "nothing": tensor(size=(0, 4), stride=(4, 1)),
            "old": call(name("torch._utils", "_rebuild_tensor"), storage(), value(1), value((2,)), value((1,))),
            "parameter": call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", EMPTY),
            "on_a_gpu": tensor(storage(module="torch.cuda")),
        }
    )
    arrays = read(FORMATS[form](made))
    np.testing.assert_array_equal(arrays["whole"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(arrays["column"], [2, 5])
    assert arrays["scalar"].shape == () and arrays["scalar"] == 5
    assert arrays["nothing"].shape == (0, 4)
    np.testing.assert_array_equal(arrays["old"], [1, 2])
    assert_same_bits(arrays["parameter"], arrays["whole"])
    assert_same_bits(arrays["on_a_gpu"], arrays["whole"])
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_values_in_the_other_byte_order_are_swapped(read):
    swapped = {"data/0": SIX.astype(">f4").tobytes(), "byteorder": b"big"}
    np.testing.assert_array_equal(read(zipped(items({"w": tensor()}), swapped))["w"], SIX.reshape(2, 3))


@pytest.mark.parametrize("form", FORMATS)
def test_a_state_dict_from_python_2_is_a_list_of_pairs(form, read):
    pairs = b"](](" + value("a.weight") + tensor() + b"e](" + value("a.bias") + tensor(size=(3,), stride=(1,)) + b"ee"
    assert list(read(FORMATS[form](call(name("collections", "OrderedDict"), pairs)))) == ["a.weight", "a.bias"]


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (items({"w": tensor()}), ["w"]),
        (items({"w": tensor(), "epoch": value(3), "opt": items({"m": tensor()})}), ["w"]),
        (items({"optimizer": items({"m": tensor()}), "state_dict": items({"w": tensor()})}), ["w"]),
        (items({"step": tensor(), "model": items({"state_dict": items({"w": tensor()})})}), ["w"]),
        (items({"ema": items({"e": tensor()}), "model_state": items({"w": tensor()})}), ["w"]),
        (items({"model": value("resnet18"), "ema": items({"e": tensor()})}), ["e"]),
        (items({"state_dict": items({}), "net": items({"w": tensor()})}), ["w"]),
        (b"}" + value(1) + tensor() + b"s" + value("w") + tensor() + b"s", ["w"]),
    ],
    ids=["plain", "other entries", "optimizer", "nested", "order", "a_text", "empty", "numbered"],
)
def test_a_checkpoint_gives_the_tensors_of_the_network(made, names, read):
    assert list(read(zipped(made))) == names


def test_other_entries_of_a_checkpoint_are_ignored(read):
    scalar = call(
        name("numpy.core.multiarray", "scalar"),
        call(name("numpy", "dtype"), value("f8"), value(False), value(True)) + value((3, "<")) + pickle.BUILD,
        call(name("_codecs", "encode"), value("\x00" * 8), value("latin1")),
    )
    others = {"best": scalar, "dtype": name("torch", "float32"), "size": call(name("torch", "Size"), value((2, 3)))}
    state = EMPTY + value("w") + tensor() + pickle.SETITEM + items({"_metadata": EMPTY}) + pickle.BUILD
    assert list(read(zipped(items(others | {"state_dict": state})))) == ["w"]


DTYPES = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.int64,
    np.int32,
    np.int16,
    np.int8,
    np.uint8,
    np.bool,
]


def every_dtype():
    drawn = np.random.default_rng(0).normal(size=(3, 2)) * 10
    arrays = {np.dtype(dtype).name: drawn.astype(dtype) for dtype in DTYPES}
    arrays["scalar"] = np.array(7, np.int64)
    arrays["nothing"] = np.zeros((0, 3), np.float32)
    arrays["transposed"] = drawn.astype(np.float32).T
    return arrays


def test_written_files_can_be_read(tmp_path):
    arrays = every_dtype()
    write_torch_file(tmp_path / "own.pth", arrays, {"a": "1", "b": "é"})
    again = read_torch_file(tmp_path / "own.pth")
    assert list(again) == list(arrays)
    for key in arrays:
        assert_same_bits(again[key], arrays[key])
    assert read_torch_metadata(tmp_path / "own.pth") == {"a": "1", "b": "é"}
    write_torch_file(tmp_path / "two.pth", arrays, {"a": "1", "b": "é"})
    assert (tmp_path / "two.pth").read_bytes() == (tmp_path / "own.pth").read_bytes()


def test_a_dtype_that_torch_does_not_have_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="the tensor 'w' has the dtype complex128"):
        write_torch_file(tmp_path / "own.pth", {"w": np.zeros(2, complex)})


def bits(torch, array):
    """Returns the bits of an array from PyTorch or NumPy, as integers of the same width."""
    if isinstance(array, np.ndarray):
        return array.view(f"u{array.itemsize}") if array.shape else array.reshape(1).view(f"u{array.itemsize}")
    flat = array.detach().contiguous()
    return np.frombuffer(bytes(flat.view(-1).view(torch.uint8).tolist()), f"u{flat.element_size()}").reshape(
        flat.shape or (1,)
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_written_files(tmp_path, mmap):
    torch = pytest.importorskip("torch")
    arrays = every_dtype()
    write_torch_file(tmp_path / "own.pth", arrays, {"a": "1"})
    loaded = torch.load(tmp_path / "own.pth", weights_only=True, mmap=mmap)
    assert list(loaded) == list(arrays)
    for key, array in arrays.items():
        assert tuple(loaded[key].shape) == array.shape
        assert str(loaded[key].dtype) == f"torch.{array.dtype.name}"
        np.testing.assert_array_equal(bits(torch, loaded[key]), bits(torch, np.ascontiguousarray(array)))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_from_torch_can_be_read(tmp_path, new):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = torch.nn.DataParallel(net).state_dict()
    drawn = torch.randn(6, 4)
    state |= {f"module.{dtype}": (drawn * 10).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.bool)}
    state |= {"module.part": drawn[1:, ::2], "module.shared": drawn.T, "module.kept": torch.nn.Parameter(drawn)}
    optimizer = torch.optim.AdamW(net.parameters())
    checkpoint = {"epoch": 3, "best": np.float64(0.5), "optimizer": optimizer.state_dict(), "state_dict": state}
    torch.save(checkpoint, tmp_path / "net.pth.tar", _use_new_zipfile_serialization=new)
    arrays = read_torch_file(tmp_path / "net.pth.tar")
    assert list(arrays) == list(state)
    for key, array in arrays.items():
        expected = state[key]
        assert array.shape == tuple(expected.shape) and f"torch.{array.dtype.name}" == str(expected.dtype)
        np.testing.assert_array_equal(bits(torch, np.ascontiguousarray(array)), bits(torch, expected))


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """Returns the bytes of a small file of each format."""
    path = tmp_path_factory.mktemp("small") / "own.pth"
    write_torch_file(path, {"a.weight": SIX.reshape(2, 3), "n": np.array(3, np.int64)}, {"k": "v"})
    ints = tensor(storage("1", "LongStorage", 1), size=(), stride=())
    numbers = {"0": SIX, "1": np.array(3, np.int64)}
    return {"zip": path.read_bytes(), "legacy": legacy(items({"a.weight": tensor(), "n": ints}), numbers)}


def arrays_or_error(path, content):
    """Returns whether a file can be read; checks that its arrays are no larger than the file."""
    path.write_bytes(content)
    try:
        read_torch_metadata(path)
        arrays = read_torch_file(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return False
    assert all(isinstance(key, str) and isinstance(array, np.ndarray) for key, array in arrays.items())
    assert all(math.prod(array.shape) * array.itemsize <= len(content) for array in arrays.values())
    return True


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_truncated_anywhere_is_refused(form, small_files, tmp_path):
    content = small_files[form]
    assert arrays_or_error(tmp_path / "w.pth", content)
    for end in range(len(content)):
        assert not arrays_or_error(tmp_path / "w.pth", content[:end]), end


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_byte_is_an_error_or_another_array(form, small_files, tmp_path):
    content = small_files[form]
    for at in range(len(content)):
        for flip in (0x01, 0xFF):
            changed = bytearray(content)
            changed[at] ^= flip
            arrays_or_error(tmp_path / "w.pth", changed)


def test_a_changed_value_in_a_zip_archive_is_detected(small_files, tmp_path):
    content = small_files["zip"]
    start = content.index(SIX.tobytes())
    for at in range(start, start + SIX.nbytes):
        changed = bytearray(content)
        changed[at] ^= 4
        assert not arrays_or_error(tmp_path / "w.pth", changed)


OPCODES = [bytes([code]) for code in range(256)]
PIECES = [*OPCODES, tensor(), storage(), EMPTY, value("w"), value(3), value((2, 3)), value([1]), b"h\x00", b"q\x00"]


@settings(max_examples=500, derandomize=True, database=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=30))
def test_any_pickle_is_an_error_or_arrays(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    arrays_or_error(path, zipped(b"".join(pieces)))
    arrays_or_error(path, legacy(b"}" + value("w") + b"".join(pieces) + b"s"))
