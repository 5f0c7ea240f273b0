"""Reads PyTorch's `.pth` files without PyTorch, and runs nothing that lies in them.

Such a file is raw numbers beside a pickle, and a pickle is a program for a small stack machine; `unpickler` is one that
runs no code. Sizes, strides and offsets are checked against the bytes that are there before an array is made, and
arrays are views of those bytes, so that no file can ask for more memory than it has bytes, or for more steps than
`MOST_STEPS`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.weights.formats.torch import PICKLE_MAGIC, ZIP_MAGIC
from jaxft.weights.formats.torch.containers import BytesOf, open_legacy, open_zip, records_of
from jaxft.weights.formats.torch.refusal import explained_read_errors, refuse, shown
from jaxft.weights.formats.torch.stored import Storage, StoredTensor, are_counts, dtype_of, is_count
from jaxft.weights.formats.torch.writing import METADATA_RECORD

TAR_MAGIC = b"ustar"  # at byte 257
STATE_KEYS = ("state_dict", "model", "model_state", "net", "model_state_dict", "ema", "network", "weights", "params",
              "state_dict_ema", "model_ema")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


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
    with explained_read_errors(path):
        if content[257:262] == TAR_MAGIC:
            refuse("is a tar archive, as torch before 0.1.10 wrote it; load it with torch and save it again")
        if not content.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
            refuse("is no file of torch.save")
        loaded, bytes_of = open_zip(content) if content.startswith(ZIP_MAGIC) else open_legacy(content)
        return {name: _to_array(name, tensor, bytes_of) for name, tensor in _state_dict(loaded).items()}


def read_torch_metadata(path: str | Path) -> dict[str, str]:
    """Returns what `write_torch_file` kept beside the tensors; nothing of a file that has none."""
    content = Path(path).read_bytes()
    if not content.startswith(ZIP_MAGIC):
        return {}
    with explained_read_errors(path):
        read, names = records_of(content)
        if METADATA_RECORD not in names:
            return {}
        metadata = json.loads(read(METADATA_RECORD))
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError("the metadata are no texts")
        return metadata


def _state_dict(loaded: Any) -> dict[str, StoredTensor]:
    """Returns the tensors of the network in what a file holds, by name, without the prefixes of wrappers."""
    tensors = _tensors_in(loaded, set())
    if not tensors:
        keys = ", ".join(map(repr, map(shown, list(loaded)[:10]))) if isinstance(loaded, dict) else ""
        description = f"it has {keys}" if keys else "it is no dict with names"
        keys_text = ", ".join(map(repr, STATE_KEYS))
        refuse(f"holds no tensors by name: {description}; they are looked for at its top and in {keys_text}")
    named: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in named:
            refuse(f"has {shown(name)!r} both with and without the prefix of a wrapper")
        named[name] = tensor
    return named


def _tensors_in(loaded: Any, seen: set[int]) -> dict[str, StoredTensor]:
    if not isinstance(loaded, dict) or id(loaded) in seen:
        return {}
    seen.add(id(loaded))
    for key in STATE_KEYS:
        inner = _tensors_in(loaded.get(key), seen)
        if inner:
            return inner
    return {name: value for name, value in loaded.items() if isinstance(value, StoredTensor)}


def _to_array(name: str, tensor: StoredTensor, bytes_of: BytesOf) -> np.ndarray:
    """Returns a tensor as a view of its storage, every index of which was checked."""
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    whole = isinstance(storage, Storage) and is_count(offset) and are_counts(size) and are_counts(stride)
    if not whole or len(size) != len(stride):
        refuse(f"describes the tensor {shown(name)!r} in a way that is none; it is damaged")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if count and (last >= storage.size or count > storage.size):
        refuse(f"has a tensor {shown(name)!r} that reaches beyond its numbers; it is damaged")
    dtype = dtype_of(storage.dtype)
    if not count:
        return np.zeros(size, dtype)
    flat = np.frombuffer(bytes_of(storage), dtype, storage.size)
    steps = tuple(step * dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
