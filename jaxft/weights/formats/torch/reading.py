"""Reads PyTorch `.pth` files without PyTorch and without running code from them.

Such a file contains raw values and a pickle, which is a program for a small stack machine; `unpickler` interprets it
without running code. Sizes, strides and offsets are checked against the number of bytes before an array is created,
and arrays are views of these bytes. So a file cannot use more memory than its size, or more than `MOST_STEPS` steps.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.text import some_of
from jaxft.weights.formats.torch import PICKLE_MAGIC, ZIP_MAGIC
from jaxft.weights.formats.torch.containers import BytesOf, open_legacy, open_records, open_zip
from jaxft.weights.formats.torch.refusal import explained_read_errors, printable, refuse
from jaxft.weights.formats.torch.stored import Storage, StoredTensor, are_counts, dtype_of, is_count
from jaxft.weights.formats.torch.writing import METADATA_RECORD

TAR_MAGIC = b"ustar"  # starts at byte 257
MOST_NAMED = 3  # entries of a file named in an error
STATE_KEYS = ("state_dict", "model", "model_state", "net", "model_state_dict", "ema", "network", "weights", "params",
              "state_dict_ema", "model_ema")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # from DataParallel and torch.compile


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file from `torch.save` by name, as read-only arrays with the dtypes of the file.

    Both zip archives (torch 1.6 and newer) and the older format are supported. In a checkpoint, the tensors of the
    network are those under the first key of `STATE_KEYS` that has tensors; other entries are ignored. The prefixes
    `module.` and `_orig_mod.` are removed from the names.

    Raises:
      UserError: the file is truncated or damaged, has no tensors, or has an object other than tensors, containers,
        numbers and strings.
    """
    content = Path(path).read_bytes()
    with explained_read_errors(path):
        if content[257:262] == TAR_MAGIC:
            refuse("is a tar archive, as torch before 0.1.10 wrote it; load it with torch and save it again")
        if not content.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
            refuse("is not a file of torch.save")
        unpickled, bytes_of = open_zip(content) if content.startswith(ZIP_MAGIC) else open_legacy(content)
        return {name: _to_array(name, tensor, bytes_of) for name, tensor in _state_dict(unpickled).items()}


def read_torch_metadata(path: str | Path) -> dict[str, str]:
    """Returns the metadata that `write_torch_file` wrote, or an empty dict for files without metadata.

    Raises:
      UserError: the file is damaged.
    """
    content = Path(path).read_bytes()
    if not content.startswith(ZIP_MAGIC):
        return {}
    with explained_read_errors(path):
        read, names = open_records(content)
        if METADATA_RECORD not in names:
            return {}
        metadata = json.loads(read(METADATA_RECORD))
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError("the metadata is not a dict of texts")
        return metadata


def _state_dict(unpickled: Any) -> dict[str, StoredTensor]:
    """Returns the tensors of the network in an unpickled object by name, without the prefixes of wrappers."""
    tensors = _tensors_in(unpickled, set())
    if not tensors:
        keys = [repr(printable(key)) for key in unpickled] if isinstance(unpickled, dict) else []
        contents = f"it has {some_of(keys, MOST_NAMED)}" if keys else "it is not a dict with names"
        state_keys = some_of([repr(key) for key in STATE_KEYS], MOST_NAMED)
        refuse(f"has no named tensors: {contents}; jaxft looks for tensors at the top level and in {state_keys}")
    named: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in named:
            refuse(f"has {printable(name)!r} both with and without the prefix of a wrapper")
        named[name] = tensor
    return named


def _tensors_in(value: Any, visited: set[int]) -> dict[str, StoredTensor]:
    if not isinstance(value, dict) or id(value) in visited:
        return {}
    visited.add(id(value))
    for key in STATE_KEYS:
        inner = _tensors_in(value.get(key), visited)
        if inner:
            return inner
    return {name: tensor for name, tensor in value.items() if isinstance(tensor, StoredTensor)}


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
