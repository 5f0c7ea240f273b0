"""safetensors files that are mapped into memory, so that their arrays are read without a copy.

The safetensors package copies every array. For a file in the cache of the system, the copy takes several times as long
as a comparison of its values.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


TYPES = {"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64"}
TYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
TYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {
    f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)
}


def map_safetensors(path: str | os.PathLike[str]) -> "Mapping[str, np.ndarray]":
    """Returns the arrays of a safetensors file by name. They are read-only, and are read from the file when used.

    Raises:
      OSError: the file cannot be opened.
      safetensors.SafetensorError: it is not a safetensors file, it is truncated, or it has an unusual type.
    """
    import ml_dtypes  # noqa: F401  (the names of the types)
    import numpy as np
    from safetensors import SafetensorError, safe_open

    with safe_open(path, framework="numpy"), Path(path).open("rb") as file:  # safe_open checks the header
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_WILLNEED"):  # the system begins to read the file
        mapped.madvise(mmap.MADV_WILLNEED)
    begin = 8 + int.from_bytes(mapped[:8], "little")
    entries = json.loads(mapped[8:begin])
    entries.pop("__metadata__", None)

    def array(entry: dict) -> "np.ndarray":
        if entry["dtype"] not in TYPES:
            raise SafetensorError(f"arrays of the type {entry['dtype']} are not supported")
        dtype, size = np.dtype(TYPES[entry["dtype"]]), math.prod(entry["shape"])
        offset = begin + entry["data_offsets"][0] if size else 0
        return np.frombuffer(mapped, dtype, size, offset).reshape(entry["shape"])

    return {name: array(entry) for name, entry in entries.items()}
