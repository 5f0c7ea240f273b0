"""NumPy archives (`.npz`): one `.npy` entry per tensor. BiT publishes its weights in this format."""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxft.core.errors import UserError
from jaxft.core.reading import TEXT_BYTES, entry_bound, read_entry
from jaxft.weights.formats.archives import check_entries, first_entry
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import explained_damage, printable, refuse

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x93NUMPY"
# The header of an array: a dict as Python writes it. Only numbers are read, so no pickle is loaded.
HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[fiub]\d+)', 'fortran_order': (True|False), 'shape': \(((?:\d+, ?)*\d*)\),? ?\}\s*"
)
METADATA = "metadata.json"  # an entry without the suffix .npy, which `numpy.load` returns as bytes


def read(path: Path) -> Contents:
    """Returns the contents of a NumPy archive. Pickled objects are not loaded."""
    with explained_damage(path, "a NumPy archive"), zipfile.ZipFile(path) as archive:
        check_entries(archive, path.stat().st_size)
        names = archive.namelist()
        if len(set(names)) != len(names):
            refuse("has two entries with the same name")
        tensors = {
            name.removesuffix(".npy"): _array(name, _content(archive, name)) for name in names if name != METADATA
        }
        return Contents(tensors, _metadata(archive), "npz", "the CRC-32 checksums of its entries match")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata that jaxft wrote to a NumPy archive."""
    with explained_damage(path, "a NumPy archive"), zipfile.ZipFile(path) as archive:
        check_entries(archive, path.stat().st_size)
        return _metadata(archive)


def _metadata(archive: zipfile.ZipFile) -> dict[str, str]:
    if METADATA not in archive.namelist():
        return {}
    metadata = json.loads(read_entry(archive, archive.getinfo(METADATA), TEXT_BYTES))
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        refuse(f"has an entry {METADATA} that is not a dict of texts")
    return metadata


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    return read_entry(archive, entry, entry_bound(entry, entry.compress_size))


def _array(name: str, content: bytes) -> "np.ndarray":
    """Returns the array of an entry, as a view of its bytes, after a check of its declared shape."""
    import numpy as np

    if content[:6] != MAGIC:
        refuse(f"has an entry {printable(name)!r} that is not a NumPy array")
    length_format, start = ("<H", 10) if content[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(length_format, content, 8)
    header = HEADER.fullmatch(content[start : start + length])
    if header is None:
        refuse(f"has an entry {printable(name)!r} that is not an array of numbers")
    dtype, shape = np.dtype(header[1].decode()), tuple(map(int, header[3].replace(b",", b" ").split()))
    if math.prod(shape) * dtype.itemsize != len(content) - start - length:
        refuse(f"has an entry {printable(name)!r} whose size does not fit its shape")
    flat = np.frombuffer(content, dtype, offset=start + length)
    order: Literal["C", "F"] = "F" if header[2] == b"True" else "C"
    return flat.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a NumPy archive with tensors of any shape by name.

    Raises:
      UserError: NumPy files cannot store the dtype of a tensor.
    """
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in tensors.items():
            if array.dtype.kind not in "fiub":
                raise UserError(f"the tensor {name!r} has the dtype {array.dtype}, which NumPy files cannot store.")
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getbuffer())
        if metadata:
            archive.writestr(zipfile.ZipInfo(METADATA), json.dumps(dict(metadata)))


NPZ = Format(
    "npz",
    (".npz",),
    matches=lambda first_bytes: first_entry(first_bytes).endswith(".npy"),
    read=read,
    write=write,
    read_metadata=read_metadata,
)
