"""Files of torch before 0.1.10: tar archives with the entries `storages`, `tensors` and `pickle`."""

import io
import struct
import sys
import tarfile
from typing import Any

import numpy as np

from jaxft.core.reading import Unreadable, tar_entries
from jaxft.weights.formats.refusal import printable, refuse
from jaxft.weights.formats.torch.containers import BytesOf
from jaxft.weights.formats.torch.stored import (
    DTYPES,
    MOST_DIMENSIONS,
    Storage,
    StoredName,
    StoredTensor,
    dtype_of,
    is_count,
)
from jaxft.weights.formats.torch.unpickler import unpickle

ENTRIES = ("storages", "tensors", "pickle")


def open_tar(content: bytes) -> tuple[Any, BytesOf]:
    """Returns the unpickled object of a tar archive, and a function from a storage to its bytes."""
    entries = _entries(content)
    storages, values = _storages(entries["storages"])
    tensors = _tensors(entries["tensors"], storages)
    unpickled, _ = unpickle(io.BytesIO(entries["pickle"]), tensors)

    def bytes_of(storage: Storage) -> bytes | memoryview:
        if sys.byteorder == "big":
            width = dtype_of(storage.dtype).itemsize
            return np.frombuffer(values[storage.key], f"u{width}").byteswap().tobytes()
        return values[storage.key]

    return unpickled, bytes_of


def _entries(content: bytes) -> dict[str, bytes]:
    """Returns the entries of the archive by name. Only plain entries inside the file are read."""
    try:
        entries = tar_entries(io.BytesIO(content))
    except (tarfile.TarError, Unreadable):
        refuse("is a damaged tar archive")
    spans = {entry.name: (entry.offset_data, entry.size) for entry in entries if entry.type in tarfile.REGULAR_TYPES}
    missing = [name for name in ENTRIES if name not in spans or sum(spans[name]) > len(content)]
    if missing:
        refuse(f"is a tar archive without {missing[0]!r}, which torch.save writes; unpack an archive of other files")
    return {name: content[start : start + size] for name, (start, size) in spans.items() if name in ENTRIES}


def _storages(content: bytes) -> tuple[dict[str, Storage], dict[str, memoryview]]:
    """Returns the storages and their bytes by key.

    For each storage, a pickle (key, device, type), the number of values (int64) and the values follow. Then a list
    defines storages that are views of others: (key, key of the other, offset, number of values).
    """
    stream = io.BytesIO(content)
    storages: dict[str, Storage] = {}
    values: dict[str, memoryview] = {}  # views, so that a file with many views of a storage needs no more memory
    for _ in range(_count(unpickle(stream)[0])):
        key, _, storage_type = unpickle(stream)[0]
        type_name = storage_type.name.rpartition(".")[2] if isinstance(storage_type, StoredName) else ""
        (size,) = struct.unpack("<q", stream.read(8))
        if type_name not in DTYPES or not is_count(size):
            refuse(f"has a storage of the type {printable(type_name)!r}, or of a damaged size")
        storage = Storage(str(key), DTYPES[type_name], size, type_name)
        storages[storage.key], values[storage.key] = storage, memoryview(stream.read(storage.num_bytes))
        if len(values[storage.key]) < storage.num_bytes:
            refuse("is truncated")
    for key, other, offset, size in unpickle(stream)[0]:
        base = storages[str(other)]
        if not is_count(offset) or not is_count(size) or offset + size > base.size:
            refuse("has a view outside its storage; it is damaged")
        width = dtype_of(base.dtype).itemsize
        storages[str(key)] = Storage(str(key), base.dtype, size, base.type)
        values[str(key)] = values[base.key][offset * width : (offset + size) * width]
    return storages, values


def _tensors(content: bytes, storages: dict[str, Storage]) -> dict[str, StoredTensor]:
    """Returns the tensors by persistent id.

    For each tensor, a pickle (key, key of the storage, type), the number of dimensions (int32 and four unused bytes),
    the shape, the strides and the offset (int64) follow.
    """
    stream = io.BytesIO(content)
    tensors = {}
    for _ in range(_count(unpickle(stream)[0])):
        key, storage, _ = unpickle(stream)[0]
        (rank,) = struct.unpack("<i4x", stream.read(8))
        if not 0 <= rank <= MOST_DIMENSIONS:
            refuse("has a tensor with a damaged number of dimensions")
        *sizes, offset = struct.unpack(f"<{2 * rank + 1}q", stream.read(8 * (2 * rank + 1)))
        tensors[str(key)] = StoredTensor(storages[str(storage)], offset, tuple(sizes[:rank]), tuple(sizes[rank:]))
    return tensors


def _count(value: Any) -> int:
    if not is_count(value):
        refuse("has a damaged number of storages or tensors")
    return value
