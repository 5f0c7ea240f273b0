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
# Storages of values that NumPy has no type for, with the size of a value in bytes: such tensors are `Dropped`.
OTHER_STORAGES = {
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "QInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "UntypedStorage": 1,
}
MOST_DIMENSIONS = 64  # as in NumPy and in torch


@dataclass(frozen=True)
class StoredName:
    """The name of a function or type in a pickle."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The storage of tensors: `size` values under `key` in the file.

    `type` is the name of its class in torch, and `dtype` the NumPy type, such as 'float32', or 'V8' for eight bytes
    without a type.
    """

    key: str
    dtype: str
    size: int
    type: str

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


@dataclass(frozen=True, eq=False)
class Dropped:
    """The placeholder of an object of another class, such as a NumPy array; it has no content.

    Attributes:
      name: name of the class, or of the function that would create the object.
    """

    name: str


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
