"""Reads and writes PyTorch's `.pth` files without PyTorch, and runs nothing that lies in them.

Such a file is raw numbers beside a pickle, and a pickle is a program for a small stack machine. The machine here knows
only the opcodes that build containers, numbers and strings. A function is a name to it, never looked up: the names of
the few that torch.save writes stand for what is done here, any other name is an error. (`pickle.Unpickler` with
another `find_class` would still allocate what a file asks for, hash what it makes, and call `__setstate__`.)

Sizes, strides and offsets are checked against the bytes that are there before an array is made, and arrays are views
of those bytes, so that no file can ask for more memory than it has bytes, or for more steps than `MOST_STEPS`.
"""

import contextlib
import functools
import io
import json
import math
import pickle
import pickletools
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxft.core.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
TAR_MAGIC = b"ustar"  # at byte 257
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
METADATA_RECORD = "metadata.json"
DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
NAMES = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
    *(f"torch.{dtype}" for dtype in DTYPES.values()),
    *(f"{module}.{name}" for module in ("torch", "torch.cuda") for name in DTYPES),
}
STATE_KEYS = ("state_dict", "model", "model_state", "net", "model_state_dict", "ema", "network", "weights", "params",
              "state_dict_ema", "model_ema")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
MOST_DIMENSIONS = 64  # as in NumPy and in torch
MOST_STEPS = 1_000_000  # of one pickle; a tensor takes about 30
DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RecursionError,
          RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile)  # fmt: skip


class _Refused(Exception):
    """What a file does that it must not, as the end of a sentence that begins with the file."""


@dataclass(frozen=True)
class _Name:
    """The name of a function or type in a pickle."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The numbers that tensors lie in: `size` of them, under `key` in the file."""

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * _dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a pickle describes it; nothing of it is checked yet."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Dropped:
    """A value that no tensor is made of, such as a NumPy scalar."""


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file that `torch.save` wrote, by name, read-only and of the types they have there.

    Zip archives (torch 1.6 and newer) and the format before them are read. Of a checkpoint the network's tensors are
    taken, found under the first of the usual names (`STATE_KEYS`) that has any; what lies beside them is dropped, and
    so are the prefixes `module.` and `_orig_mod.`.

    Raises:
      UserError: the file is truncated or damaged, holds no tensors, or asks for anything that is not a tensor, a
        container, a number or a string; the message names it.
    """
    content = Path(path).read_bytes()
    with _saying_what_is_wrong(path):
        if content[257:262] == TAR_MAGIC:
            _refuse("is a tar archive, as torch before 0.1.10 wrote it; load it with torch and save it again")
        if not content.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
            _refuse("is no file of torch.save")
        loaded, bytes_of = _open_zip(content) if content.startswith(ZIP_MAGIC) else _open_legacy(content)
        return {name: _to_array(name, tensor, bytes_of) for name, tensor in _state_dict(loaded).items()}


def read_torch_metadata(path: str | Path) -> dict[str, str]:
    """Returns what `write_torch_file` kept beside the tensors; nothing of a file that has none."""
    content = Path(path).read_bytes()
    if not content.startswith(ZIP_MAGIC):
        return {}
    with _saying_what_is_wrong(path):
        read, names = _records(content)
        if METADATA_RECORD not in names:
            return {}
        metadata = json.loads(read(METADATA_RECORD))
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError("the metadata are no texts")
        return metadata


@contextlib.contextmanager
def _saying_what_is_wrong(path: str | Path) -> Iterator[None]:
    """Turns whatever a file can make go wrong into a `UserError` that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts that a pickle has
            yield
    except _Refused as refused:
        raise UserError(f"the weight file {str(path)!r} {refused}.") from None
    except DAMAGE:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or not from torch.save.") from None


def _refuse(what: str) -> NoReturn:
    raise _Refused(what)


def _refuse_code(name: str) -> NoReturn:
    _refuse(
        f"asks for {_shown(name)}, which is code; jaxft reads tensors only. "
        "Save the state dict alone, or as safetensors"
    )


def _shown(text: str) -> str:
    """Returns a text from a file as it can stand in a message of one line."""
    plain = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= 80 else plain[:77] + "..."


# --- the two formats --------------------------------------------------------------------------------------------


BytesOf = Callable[[_Storage], bytes]


def _open_zip(content: bytes) -> tuple[Any, BytesOf]:
    """Returns what the pickle of a zip archive describes, and what reads a storage's bytes."""
    read, names = _records(content)
    loaded, _ = _unpickle(io.BytesIO(read("data.pkl")))
    swapped = "byteorder" in names and read("byteorder").strip() != sys.byteorder.encode()

    @functools.cache
    def bytes_of(storage: _Storage) -> bytes:
        if f"data/{storage.key}" not in names:
            _refuse(f"has no numbers under {_shown(storage.key)!r}, of which a tensor is made")
        stored = read(f"data/{storage.key}")
        if len(stored) < storage.num_bytes:
            _refuse(f"has too few numbers under {_shown(storage.key)!r}; it is truncated or damaged")
        if swapped:
            return np.frombuffer(stored, f"u{_dtype(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return loaded, bytes_of


def _records(content: bytes) -> tuple[Callable[[str], bytes], set[str]]:
    """Returns what reads a record of a zip archive, below its one folder, and the names of the records."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        _refuse("is a compressed zip archive; torch.save never compresses")
    if sum(entry.file_size for entry in entries) > len(content):
        _refuse("is a zip archive whose entries lie upon each other; torch.save never writes such")
    folders = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(folders) != 1:
        _refuse("is a zip archive with no data.pkl in it, or several; torch.save writes one")
    folder = folders[0]
    names = {name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)}
    return (lambda name: archive.read(folder + name)), names


def _open_legacy(content: bytes) -> tuple[Any, BytesOf]:
    """Returns what a file of torch before 1.6 describes, and what reads a storage's bytes.

    Five pickles (magic number, protocol, the machine's properties, the object, the storages' keys), then for each key
    the number of values (int64) and the values, little endian on every machine.
    """
    stream = io.BytesIO(content)
    if _unpickle(stream)[0] != LEGACY_MAGIC:
        _refuse("is a pickle, but not one that torch.save wrote")
    if _unpickle(stream)[0] != LEGACY_PROTOCOL:
        _refuse("is of a protocol of torch.save that is not known")
    _unpickle(stream)
    loaded, storages = _unpickle(stream)
    keys, _ = _unpickle(stream)
    starts = {}
    end = stream.tell()
    for key in keys:
        if struct.unpack_from("<q", content, end)[0] != storages[key].size:
            _refuse(f"has another number of values under {_shown(key)!r} than it says; it is damaged")
        starts[key] = end + 8
        end += 8 + storages[key].num_bytes
    if end > len(content):
        _refuse("is truncated")

    @functools.cache
    def bytes_of(storage: _Storage) -> bytes:
        if storage.key not in starts:
            _refuse(f"has no numbers under {_shown(storage.key)!r}, of which a tensor is made")
        stored = content[starts[storage.key] : starts[storage.key] + storage.num_bytes]
        if sys.byteorder == "big":
            return np.frombuffer(stored, f"u{_dtype(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return loaded, bytes_of


# --- the pickle's machine ---------------------------------------------------------------------------------------

VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINSTRING",
          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8")  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """Returns what the pickle that `stream` stands at describes, and its storages by key; reads to its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, _Storage] = {}

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(stream)
    for step, (opcode, value, _) in enumerate(operations):
        if step > MOST_STEPS:
            _refuse(f"takes more than {MOST_STEPS:,} steps to read; tensors do not")
        match opcode.name:
            case name if name in VALUES:
                stack.append(value)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[value])
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(pop_to_mark())
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS":
                items = pop_to_mark()
                _list(stack[-1]).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = pop_to_mark()
                stack.append(_set_items({}, items))
            case "SETITEM":
                item = stack.pop()
                key = stack.pop()
                _set_items(stack[-1], [key, item])
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_name(*value.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute = stack.pop()
                stack.append(_name(stack.pop(), attribute))
            case "REDUCE":
                args = stack.pop()
                stack.append(_call(stack.pop(), args))
            case "BUILD":
                stack.pop()
                if not isinstance(stack[-1], OrderedDict | _Dropped):
                    _refuse("gives a state to what has none; it is damaged")
            case "BINPERSID":
                storage = _to_storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    _refuse(f"describes the numbers under {_shown(storage.key)!r} in two ways")
                stack.append(storage)
            case "INST":
                _refuse_code(value.replace(" ", "."))
            case name:
                _refuse_code(f"the pickle opcode {name}")
    return stack.pop(), storages


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        _refuse("appends to what is no list; it is damaged")
    return value


def _set_items(target: Any, items: list[Any]) -> dict[str, Any]:
    """Returns the dict `target` with keys and values from `items` in turn; what has no text for a name is dropped.

    No tensor of a network has a key that is no text, and to hash others can be made to take for ever.
    """
    if not isinstance(target, dict):
        _refuse("sets items of what is no dict; it is damaged")
    target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
    return target


def _name(module: Any, attribute: Any) -> _Name:
    """Returns a name that torch.save writes; any other is an error."""
    name = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "what has no name"
    if name not in NAMES:
        _refuse_code(name)
    return _Name(name)


def _call(function: Any, args: Any) -> Any:
    """Returns what stands for `function(*args)`."""
    if not isinstance(function, _Name) or not isinstance(args, tuple):
        _refuse("calls what is no function; it is damaged")
    match function.name:
        case "collections.OrderedDict" if not args:
            return OrderedDict()
        case "collections.OrderedDict":  # from Python 2, with a list of pairs
            pairs = _list(args[0])
            made = OrderedDict((key, value) for key, value in pairs if isinstance(key, str))
            pairs.clear()  # taken, not copied: asked for again and again, they must not grow
            return made
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
            return _Tensor(*args[:4])
        case "torch._utils._rebuild_parameter" | "torch.Size":
            return args[0]
        case "numpy.dtype" | "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" | "_codecs.encode":
            return _Dropped()
        case name:
            _refuse_code(f"a call of {name}")


def _to_storage(saved: Any) -> _Storage:
    """Returns the storage that a persistent id is about: ('storage', type, key, device, number of values, view)."""
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        _refuse("refers to something outside its pickle that is no storage")
    kind, key, size = saved[1], saved[2], saved[4]
    if not isinstance(kind, _Name) or not isinstance(key, str) or not _is_count(size):
        _refuse("has a storage without a type, a name or a size; it is damaged")
    if saved[5:] not in ((), (None,)):
        _refuse("has a storage that is a part of another; load it with torch and save it again")
    return _Storage(key, DTYPES[kind.name.rpartition(".")[2]], size)


# --- tensors ----------------------------------------------------------------------------------------------------


def _state_dict(loaded: Any) -> dict[str, _Tensor]:
    """Returns the tensors of the network in what a file holds, by name, without the prefixes of wrappers."""
    found = _tensors_in(loaded, set())
    if not found:
        keys = ", ".join(map(repr, map(_shown, list(loaded)[:10]))) if isinstance(loaded, dict) else ""
        there = f"it has {keys}" if keys else "it is no dict with names"
        places = ", ".join(map(repr, STATE_KEYS))
        _refuse(f"holds no tensors by name: {there}; they are looked for at its top and in {places}")
    named: dict[str, _Tensor] = {}
    for name, tensor in found.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in named:
            _refuse(f"has {_shown(name)!r} both with and without the prefix of a wrapper")
        named[name] = tensor
    return named


def _tensors_in(loaded: Any, seen: set[int]) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict) or id(loaded) in seen:
        return {}
    seen.add(id(loaded))
    for key in STATE_KEYS:
        inner = _tensors_in(loaded.get(key), seen)
        if inner:
            return inner
    return {name: value for name, value in loaded.items() if isinstance(value, _Tensor)}


def _to_array(name: str, tensor: _Tensor, bytes_of: BytesOf) -> np.ndarray:
    """Returns a tensor as a view of its storage, every index of which was checked."""
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    whole = isinstance(storage, _Storage) and _is_count(offset) and _are_counts(size) and _are_counts(stride)
    if not whole or len(size) != len(stride):
        _refuse(f"describes the tensor {_shown(name)!r} in a way that is none; it is damaged")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if count and (last >= storage.size or count > storage.size):
        _refuse(f"has a tensor {_shown(name)!r} that reaches beyond its numbers; it is damaged")
    dtype = _dtype(storage.dtype)
    if not count:
        return np.zeros(size, dtype)
    flat = np.frombuffer(bytes_of(storage), dtype, storage.size)
    steps = tuple(step * dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= MOST_DIMENSIONS and all(map(_is_count, values))


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


# --- writing ----------------------------------------------------------------------------------------------------


def write_torch_file(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors as `torch.load(path, weights_only=True)` reads them: an OrderedDict of plain tensors.

    `metadata` are texts that are kept beside them, for `read_torch_metadata`; torch passes over them.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    records = {"data.pkl": _pickled(arrays), "byteorder": sys.byteorder.encode(), "version": b"3\n"}
    records |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())}
    if metadata:
        records[METADATA_RECORD] = json.dumps(dict(metadata)).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the pickle of an OrderedDict of tensors, each in a storage of its own, by opcodes of protocol 2."""
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}

    def value(made: Any) -> bytes:
        return pickle.dumps(made, 2)[2:-1]  # without the protocol before it and the stop after it

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    empty = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for i, (tensor, array) in enumerate(arrays.items()):
        if array.dtype.name not in kinds:
            raise UserError(f"{tensor!r} is of type {array.dtype}, which torch's files here cannot hold.")
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = name("torch", kinds[array.dtype.name]) + value(str(i)) + value("cpu") + value(array.size)
        parts += [value(tensor), name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [pickle.MARK, value("storage"), storage, pickle.TUPLE, pickle.BINPERSID]
        parts += [value(0), value(array.shape), value(stride), pickle.NEWFALSE, empty, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])
