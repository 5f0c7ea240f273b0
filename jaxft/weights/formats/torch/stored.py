"""Unchecked descriptions in a pickle of torch.save: names, storages, tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
MOST_DIMENSIONS = 64  # as in NumPy and in torch


@dataclass(frozen=True)
class StoredName:
    """The name of a function or type in a pickle."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The storage of tensors: `size` values under `key` in the file."""

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self) -> int:
        """Returns the size of the storage in bytes."""
        return self.size * dtype_of(self.dtype).itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a pickle describes it; the fields are not checked yet."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Dropped:
    """A value that is ignored because tensors do not need it, such as a NumPy scalar."""


def dtype_of(name: str) -> np.dtype:
    """Returns the NumPy dtype of a name, including 'bfloat16'."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_count(value: Any) -> bool:
    """Returns whether a value is an integer that can be an offset, a size or a stride."""
    return type(value) is int and 0 <= value < 2**48


def are_counts(values: Any) -> bool:
    """Returns whether a value is a tuple of counts that can be a shape or strides."""
    return isinstance(values, tuple) and len(values) <= MOST_DIMENSIONS and all(map(is_count, values))
