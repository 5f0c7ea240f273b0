"""Writes files for `torch.load(path, weights_only=True)`, without PyTorch."""

import json
import math
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.errors import UserError
from jaxft.weights.formats.torch.stored import DTYPES

METADATA_RECORD = "metadata.json"


def write_torch_file(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file for `torch.load(path, weights_only=True)`: an OrderedDict of plain tensors.

    Args:
      path: path of the file.
      tensors: arrays of any shape by tensor name.
      metadata: texts by name, for `read_torch_metadata`; PyTorch ignores them.

    Raises:
      UserError: PyTorch has no storage for the dtype of a tensor.
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
    """Returns the pickle (protocol 2) of an OrderedDict of tensors, each with its own storage."""
    storage_types = {dtype: storage_type for storage_type, dtype in DTYPES.items()}

    def value(constant: Any) -> bytes:
        return pickle.dumps(constant, 2)[2:-1]  # without the opcodes of the protocol and of the end

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    empty = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for i, (tensor, array) in enumerate(arrays.items()):
        if array.dtype.name not in storage_types:
            raise UserError(
                f"the tensor {tensor!r} has the dtype {array.dtype}, which a PyTorch file cannot store; "
                f"convert it to one of {', '.join(storage_types)}."
            )
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = name("torch", storage_types[array.dtype.name]) + value(str(i)) + value("cpu") + value(array.size)
        parts += [value(tensor), name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [pickle.MARK, value("storage"), storage, pickle.TUPLE, pickle.BINPERSID]
        parts += [value(0), value(array.shape), value(stride), pickle.NEWFALSE, empty, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])
