"""Values in HDF5 files: types, shapes, numbers and strings."""

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from jaxft.weights.formats.hdf5.blocks import LONGEST_NAME, Blocks
from jaxft.weights.formats.refusal import refuse

FIXED_POINT, FLOATING_POINT, STRING, OPAQUE, VARIABLE_LENGTH = 0, 1, 3, 5, 9  # classes of types
FLOATS = {(8, 11): "f8", (4, 8): "f4", (2, 5): "f2"}  # by bytes and bits of the exponent
BFLOAT16 = (2, 8)
MOST_DIMENSIONS = 32
MOST_BYTES = 1 << 48


class Type(NamedTuple):
    """The type of values: its class, the size of a value in bytes, and the NumPy dtype of numbers."""

    kind: int
    num_bytes: int
    dtype: np.dtype | None


def parse_type(message: memoryview) -> Type:
    """Returns the type in a datatype message."""
    class_and_version, flags, size = struct.unpack_from("<BB2xI", message)
    kind, order = class_and_version & 0xF, ">" if flags & 1 else "<"
    if kind == FIXED_POINT and size in (1, 2, 4, 8):
        return Type(kind, size, np.dtype(f"{order}{'i' if flags & 8 else 'u'}{size}"))
    if kind == FLOATING_POINT:
        exponent_bits = message[13]
        if (size, exponent_bits) == BFLOAT16 and order == "<":
            return Type(kind, size, _bfloat16())
        if (size, exponent_bits) in FLOATS:
            return Type(kind, size, np.dtype(order + FLOATS[size, exponent_bits]))
    if kind == OPAQUE and size == 2:  # h5py writes bfloat16 of ml_dtypes as opaque values
        return Type(kind, size, _bfloat16())
    if kind == STRING or (kind == VARIABLE_LENGTH and flags & 0xF == 1):
        return Type(kind, size, None)
    return refuse(f"has values of the HDF5 type class {kind} with {size} bytes; weights are numbers")


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def parse_shape(message: memoryview) -> tuple[int, ...]:
    """Returns the shape in a dataspace message."""
    version, rank = struct.unpack_from("<BB", message)
    if version not in (1, 2) or rank > MOST_DIMENSIONS or (version == 2 and message[3] == 2):
        refuse("has an array without a valid shape")
    return struct.unpack_from(f"<{rank}Q", message, 8 if version == 1 else 4)


def to_array(stored: Type, shape: tuple[int, ...], data: memoryview) -> np.ndarray:
    """Returns numbers as a read-only view of `data`, after a check that there are enough bytes."""
    if stored.dtype is None:
        refuse("has a dataset of strings; weights are numbers")
    num_bytes = math.prod(shape) * stored.num_bytes
    if num_bytes > len(data):
        refuse("has a dataset that is larger than its values")
    flat = np.frombuffer(data[:num_bytes], stored.dtype)
    return flat.reshape(shape).astype(stored.dtype.newbyteorder("="), copy=False)


def to_texts(blocks: Blocks, stored: Type, shape: tuple[int, ...], data: memoryview) -> list[str]:
    """Returns the strings of an attribute.

    Args:
      blocks: the file.
      stored: the type of the strings, which have a fixed length or refer to a heap.
      shape: the shape of the attribute.
      data: the stored values.
    """
    count = math.prod(shape)
    if stored.num_bytes == 0 or count * stored.num_bytes > len(data):
        refuse("has an attribute that is larger than its values")
    texts = []
    for i in range(count):
        value: Any = data[i * stored.num_bytes : (i + 1) * stored.num_bytes]
        if stored.kind == VARIABLE_LENGTH:
            length, heap, index = struct.unpack("<IQI", value)
            if length > LONGEST_NAME:
                refuse("has a name of more than a thousand characters")
            value = blocks.global_heap(heap)[index][:length] if length else b""
        texts.append(bytes(value).rstrip(b"\0").decode())
    return texts
