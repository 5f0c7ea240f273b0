"""What a pickle of torch.save describes: names, storages of numbers, tensors. Nothing of it is checked yet."""

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
    """The numbers that tensors lie in: `size` of them, under `key` in the file."""

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self) -> int:
        return self.size * dtype_of(self.dtype).itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a pickle describes it; nothing of it is checked yet."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Dropped:
    """A value that no tensor is made of, such as a NumPy scalar."""


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= MOST_DIMENSIONS and all(map(is_count, values))
