"""The two containers of torch.save: zip archives (torch 1.6 and newer), and sequences of pickles (older)."""

import functools
import io
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxft.core.text import plural
from jaxft.weights.formats.refusal import printable, refuse, refuse_code
from jaxft.weights.formats.torch.stored import Dropped, Storage, dtype_of
from jaxft.weights.formats.torch.unpickler import unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

BytesOf = Callable[[Storage], bytes | memoryview]


def open_zip(content: bytes) -> tuple[Any, BytesOf]:
    """Returns the unpickled object of a zip archive, and a function from a storage to its bytes."""
    read, names = open_records(content)
    unpickled, _ = unpickle(io.BytesIO(read("data.pkl")))
    swapped = "byteorder" in names and read("byteorder").strip() != sys.byteorder.encode()

    @functools.cache
    def bytes_of(storage: Storage) -> bytes:
        if f"data/{storage.key}" not in names:
            refuse(f"has no values for the storage {printable(storage.key)!r} of a tensor; it is damaged")
        stored = read(f"data/{storage.key}")
        if len(stored) < storage.num_bytes:
            refuse(f"has too few values for the storage {printable(storage.key)!r}; it is truncated or damaged")
        if swapped:
            return np.frombuffer(stored, f"u{dtype_of(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return unpickled, bytes_of


def open_records(content: bytes) -> tuple[Callable[[str], bytes], set[str]]:
    """Returns a function that reads a record of a zip archive by name, and the names of the records.

    Names are relative to the only folder of the archive.
    """
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        refuse("is a compressed zip archive; torch.save never compresses")
    if sum(entry.file_size for entry in entries) > len(content):
        refuse("is a zip archive with overlapping entries; torch.save never writes these")
    folders = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(folders) != 1:
        refuse(f"is a zip archive with {plural(len(folders), 'data.pkl file')}; torch.save writes exactly one")
    folder = folders[0]
    names = {name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)}
    return (lambda name: archive.read(folder + name)), names


def open_legacy(content: bytes) -> tuple[Any, BytesOf]:
    """Returns the unpickled object of a file from torch before 1.6, and a function from a storage to its bytes.

    Such a file contains five pickles: the magic number, the protocol, properties of the machine, the object, and the
    keys of the storages. For each key, the number of values (int64) and the values follow, in little-endian order.
    """
    stream = io.BytesIO(content)
    first, _ = unpickle(stream)
    if isinstance(first, Dropped):
        refuse_code(first.name)
    if first != LEGACY_MAGIC:
        refuse("is a pickle, but not from torch.save")
    if unpickle(stream)[0] != LEGACY_PROTOCOL:
        refuse("has an unknown protocol of torch.save")
    unpickle(stream)
    unpickled, storages = unpickle(stream)
    keys, _ = unpickle(stream)
    offsets = {}
    end = stream.tell()
    for key in keys:
        if struct.unpack_from("<q", content, end)[0] != storages[key].size:
            refuse(f"has a wrong number of values for the storage {printable(key)!r}; it is damaged")
        offsets[key] = end + 8
        end += 8 + storages[key].num_bytes
    if end > len(content):
        refuse("is truncated")

    @functools.cache
    def bytes_of(storage: Storage) -> bytes:
        if storage.key not in offsets:
            refuse(f"has no values for the storage {printable(storage.key)!r} of a tensor; it is damaged")
        stored = content[offsets[storage.key] : offsets[storage.key] + storage.num_bytes]
        if sys.byteorder == "big":
            return np.frombuffer(stored, f"u{dtype_of(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return unpickled, bytes_of
