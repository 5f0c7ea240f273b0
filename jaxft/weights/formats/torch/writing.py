"""Writes tensors as PyTorch's `torch.load(path, weights_only=True)` reads them, without PyTorch."""

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
    """Writes tensors as `torch.load(path, weights_only=True)` reads them: an OrderedDict of plain tensors.

    `metadata` are texts that are kept beside them, for `read_torch_metadata`; torch passes over them.
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
    """Returns the pickle of an OrderedDict of tensors, each in a storage of its own, by opcodes of protocol 2."""
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}

    def value(made: Any) -> bytes:
        return pickle.dumps(made, 2)[2:-1]  # without the protocol before it and the stop after it

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    empty = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for i, (tensor, array) in enumerate(arrays.items()):
        if array.dtype.name not in kinds:
            raise UserError(f"{tensor!r} is of type {array.dtype}, which torch's files here cannot hold.")
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = name("torch", kinds[array.dtype.name]) + value(str(i)) + value("cpu") + value(array.size)
        parts += [value(tensor), name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [pickle.MARK, value("storage"), storage, pickle.TUPLE, pickle.BINPERSID]
        parts += [value(0), value(array.shape), value(stride), pickle.NEWFALSE, empty, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])
