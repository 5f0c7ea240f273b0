"""Reading of NumPy archives (`.npz`) from anywhere: the size of an array is checked before it is allocated."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.reading import TEXT_BYTES, check_file, check_size, entry_bound

if TYPE_CHECKING:
    import numpy as np


def load_npz(path: Path, wanted: Collection[str]) -> "tuple[list[str], dict[str, np.ndarray]]":
    """Returns the names of all arrays in a file, and the wanted arrays by name, of any shape.

    Args:
      path: the file.
      wanted: names of arrays, which the file need not have. Other arrays are not read.

    Raises:
      Unreadable: the path is no regular file, or an array is larger than the bound.
      ValueError, zipfile.BadZipFile, ...: the file is damaged, or has pickled objects (`jaxft.core.reading.DAMAGE`).
    """
    check_file(path)
    num_bytes = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        arrays = {name: _read_array(archive, entries[name], num_bytes) for name in wanted if name in entries}
    return list(entries), arrays


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, num_bytes: int) -> "np.ndarray":
    """Returns the array of an entry of an archive of `num_bytes`."""
    from numpy.lib import format as npy

    with archive.open(entry) as stream:
        read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        default = entry_bound(entry, num_bytes) if dtype.kind in "biuf" else TEXT_BYTES
        check_size(math.prod(shape) * dtype.itemsize, default)
        stream.seek(0)
        return npy.read_array(stream, allow_pickle=False)
