"""Reads PyTorch `.pth` files without PyTorch and without running code from them.

Such a file contains raw values and a pickle, which is a program for a small stack machine; `unpickler` interprets it
without running code. Sizes, strides and offsets are checked against the number of bytes before an array is created,
and arrays are views of these bytes. So a file cannot use more memory than its size, or more than `MOST_STEPS` steps.
"""

import functools
import json
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxft.core.reading import read_file
from jaxft.core.text import some_of
from jaxft.weights.formats.format import Contents
from jaxft.weights.formats.refusal import explained_damage, printable, refuse, refuse_code
from jaxft.weights.formats.torch import PICKLE_MAGIC, ZIP_MAGIC, is_tar
from jaxft.weights.formats.torch.containers import BytesOf, open_legacy, open_records, open_zip
from jaxft.weights.formats.torch.stored import Dropped, Storage, StoredTensor, are_counts, dtype_of, is_count
from jaxft.weights.formats.torch.tar import open_tar
from jaxft.weights.formats.torch.writing import METADATA_RECORD

MOST_NAMED = 3  # entries of a file named in an error
STATE_KEYS = ("state_dict", "model", "model_state", "net", "model_state_dict", "ema", "network", "weights", "params",
              "state_dict_ema", "model_ema", "teacher", "student")  # fmt: skip


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file from `torch.save` by name, as read-only arrays with the dtypes of the file.

    See `read_contents`.

    Raises:
      UserError: see `read_contents`.
    """
    return read_contents(path).tensors


def read_contents(path: str | Path) -> Contents:
    """Returns the contents of a file from `torch.save`, without its metadata.

    Zip archives (torch 1.6 and newer), the older format and tar archives (before 0.1.10) are supported. A checkpoint
    can have several dicts of tensors; the result has the tensors of one, and functions for all others. It is the first
    of `STATE_KEYS`, or the tensors at the top level, or the only dict with tensors; otherwise the result has no
    tensors. So the trained weights come before their moving average (`state_dict_ema`). Objects of other classes are
    never created.

    Raises:
      UserError: the file is truncated or damaged, or has no dict of tensors.
    """
    content = read_file(Path(path))
    with explained_damage(path, "from torch.save"):
        is_archive = content.startswith(ZIP_MAGIC)
        variant, open_container = _container(content)
        unpickled, bytes_of = open_container(content)
        state_dicts = dict(_state_dicts(unpickled))
        if not state_dicts:
            _refuse_without_tensors(unpickled)

    def contents(name: str) -> Contents:
        with explained_damage(path, "from torch.save"):
            entries = state_dicts.get(name, {})
            return Contents(
                {key: _to_array(key, entry, bytes_of) for key, entry in entries.items() if _is_tensor(entry)},
                variant=variant,
                checked="the CRC-32 checksums of its entries match" if is_archive else "",
                state_dict=name,
                others={other: functools.partial(contents, other) for other in state_dicts if other != name},
                dropped={key: entry.name for key, entry in entries.items() if isinstance(entry, Dropped)},
            )

    return contents(_default(state_dicts))


def _container(content: bytes) -> tuple[str, Callable[[bytes], tuple[Any, BytesOf]]]:
    """Returns the name of the container of a file, and the function that opens it."""
    if content.startswith(ZIP_MAGIC):
        return "torch", open_zip
    if is_tar(content):
        return "torch (tar)", open_tar
    if not content.startswith(PICKLE_MAGIC):
        refuse("is not a file of torch.save")
    return "torch (legacy)", open_legacy


def read_torch_metadata(path: str | Path) -> dict[str, str]:
    """Returns the metadata that `write_torch_file` wrote, or an empty dict for files without metadata.

    Raises:
      UserError: the file is damaged.
    """
    content = read_file(Path(path))
    if not content.startswith(ZIP_MAGIC):
        return {}
    with explained_damage(path, "from torch.save"):
        read, names = open_records(content)
        if METADATA_RECORD not in names:
            return {}
        metadata = json.loads(read(METADATA_RECORD))
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError("the metadata is not a dict of texts")
        return metadata


def _state_dicts(value: Any, name: str = "", visited: set[int] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each dict with tensors in an unpickled object, with its name: the keys of the dicts around it."""
    visited = set() if visited is None else visited
    if not isinstance(value, dict) or id(value) in visited:
        return
    visited.add(id(value))
    if any(map(_is_tensor, value.values())):
        yield name, value
    for key, inner in value.items():
        yield from _state_dicts(inner, f"{name}.{key}" if name else key, visited)


def _default(names: Collection[str]) -> str:
    """Returns the name of the state dict that has the network, or '' if it is unknown or the top level."""
    candidates = [name for name in names if name.partition(".")[0] in STATE_KEYS]
    if candidates:
        return min(candidates, key=lambda name: [*map(_rank, name.split(".")), len(STATE_KEYS)])
    return next(iter(names)) if len(names) == 1 else ""


def _rank(key: str) -> int:
    """Returns the index of a key in `STATE_KEYS`. Other keys come last, after the own tensors of a dict."""
    return STATE_KEYS.index(key) if key in STATE_KEYS else len(STATE_KEYS) + 1


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor)


def _refuse_without_tensors(unpickled: Any) -> NoReturn:
    """Raises the error for a file without a dict of tensors; names an object of a class, such as a whole network."""
    if isinstance(unpickled, Dropped):
        refuse_code(unpickled.name)
    items = unpickled if isinstance(unpickled, dict) else {}
    for key in STATE_KEYS:
        if isinstance(items.get(key), Dropped):
            refuse_code(items[key].name)
    keys = [repr(printable(key)) for key in items]
    contents = f"it has {some_of(keys, MOST_NAMED)}" if keys else "it is not a dict with names"
    refuse(f"has no dict of named tensors: {contents}")


def _to_array(name: str, tensor: StoredTensor, bytes_of: BytesOf) -> np.ndarray:
    """Returns a tensor as a view of its storage, after a check that all its indices are valid."""
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    is_valid = isinstance(storage, Storage) and is_count(offset) and are_counts(size) and are_counts(stride)
    if not is_valid or len(size) != len(stride):
        refuse(f"has an invalid description of the tensor {printable(name)!r}; it is damaged")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if count and (last >= storage.size or count > storage.size):
        refuse(f"has a tensor {printable(name)!r} that is larger than its storage; it is damaged")
    dtype = dtype_of(storage.dtype)
    if not count:
        return np.zeros(size, dtype)
    flat = np.frombuffer(bytes_of(storage), dtype, storage.size)
    steps = tuple(step * dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
