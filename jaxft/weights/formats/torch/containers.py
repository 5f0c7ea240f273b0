"""The two containers of torch.save: zip archives (torch 1.6 and newer), and a row of pickles before them."""

import functools
import io
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxft.weights.formats.torch.refusal import refuse, shown
from jaxft.weights.formats.torch.stored import Storage, dtype_of
from jaxft.weights.formats.torch.unpickler import unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

BytesOf = Callable[[Storage], bytes]


def open_zip(content: bytes) -> tuple[Any, BytesOf]:
    """Returns what the pickle of a zip archive describes, and what reads a storage's bytes."""
    read, names = records_of(content)
    loaded, _ = unpickle(io.BytesIO(read("data.pkl")))
    swapped = "byteorder" in names and read("byteorder").strip() != sys.byteorder.encode()

    @functools.cache
    def bytes_of(storage: Storage) -> bytes:
        if f"data/{storage.key}" not in names:
            refuse(f"has no numbers under {shown(storage.key)!r}, of which a tensor is made")
        stored = read(f"data/{storage.key}")
        if len(stored) < storage.num_bytes:
            refuse(f"has too few numbers under {shown(storage.key)!r}; it is truncated or damaged")
        if swapped:
            return np.frombuffer(stored, f"u{dtype_of(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return loaded, bytes_of


def records_of(content: bytes) -> tuple[Callable[[str], bytes], set[str]]:
    """Returns what reads a record of a zip archive, below its one folder, and the names of the records."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        refuse("is a compressed zip archive; torch.save never compresses")
    if sum(entry.file_size for entry in entries) > len(content):
        refuse("is a zip archive whose entries lie upon each other; torch.save never writes such")
    folders = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(folders) != 1:
        refuse("is a zip archive with no data.pkl in it, or several; torch.save writes one")
    folder = folders[0]
    names = {name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)}
    return (lambda name: archive.read(folder + name)), names


def open_legacy(content: bytes) -> tuple[Any, BytesOf]:
    """Returns what a file of torch before 1.6 describes, and what reads a storage's bytes.

    Five pickles (magic number, protocol, the machine's properties, the object, the storages' keys), then for each key
    the number of values (int64) and the values, little endian on every machine.
    """
    stream = io.BytesIO(content)
    if unpickle(stream)[0] != LEGACY_MAGIC:
        refuse("is a pickle, but not one that torch.save wrote")
    if unpickle(stream)[0] != LEGACY_PROTOCOL:
        refuse("is of a protocol of torch.save that is not known")
    unpickle(stream)
    loaded, storages = unpickle(stream)
    keys, _ = unpickle(stream)
    offsets = {}
    end = stream.tell()
    for key in keys:
        if struct.unpack_from("<q", content, end)[0] != storages[key].size:
            refuse(f"has another number of values under {shown(key)!r} than it says; it is damaged")
        offsets[key] = end + 8
        end += 8 + storages[key].num_bytes
    if end > len(content):
        refuse("is truncated")

    @functools.cache
    def bytes_of(storage: Storage) -> bytes:
        if storage.key not in offsets:
            refuse(f"has no numbers under {shown(storage.key)!r}, of which a tensor is made")
        stored = content[offsets[storage.key] : offsets[storage.key] + storage.num_bytes]
        if sys.byteorder == "big":
            return np.frombuffer(stored, f"u{dtype_of(storage.dtype).itemsize}").byteswap().tobytes()
        return stored

    return loaded, bytes_of
