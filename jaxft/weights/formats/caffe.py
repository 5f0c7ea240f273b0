"""Caffe models (`.caffemodel`): layers with blobs of values, as a protobuf message `NetParameter`.

Blob 0 of the layer `conv1` is the tensor `conv1.0`, usually its kernel (OIHW), and blob 1 is `conv1.1`, its bias.

Reference: github.com/BVLC/caffe, src/caffe/proto/caffe.proto.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.reading import read_file
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.protobuf import encode_field, encode_varint, fields, varints
from jaxft.weights.formats.refusal import explained_damage, printable, refuse

if TYPE_CHECKING:
    import numpy as np

NET_NAME, NET_LAYERS_V1, NET_LAYER = 1, 2, 100  # fields of NetParameter
NET_METADATA = 1000  # a field that Caffe does not know, and ignores
LAYER_NAME, LAYER_TYPE, LAYER_BLOBS = 1, 2, 7  # fields of LayerParameter
V1_LAYER_V0, V1_LAYER_NAME, V1_LAYER_BLOBS = 1, 4, 6  # fields of V1LayerParameter
BLOB_LEGACY_SHAPE = (1, 2, 3, 4)  # fields of BlobProto: num, channels, height, width
BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLE_DATA = 5, 7, 8
SHAPE_DIM = 1  # field of BlobShape
MOST_DIMENSIONS = 32
MOST_BLOBS = 100  # of a layer
MOST_PIECES = 1000  # of the values of a blob; Caffe writes one
TYPES = {2: "InnerProduct", 4: "Convolution"}  # type of the layer, by dimensions of its blob 0


def read(path: Path) -> Contents:
    """Returns the contents of a Caffe model."""
    with explained_damage(path, "a Caffe model"):
        content = memoryview(read_file(path))
        tensors: dict[str, np.ndarray] = {}
        metadata: dict[str, str] = {}
        for number, message in fields(content):
            if isinstance(message, int):
                continue
            if number == NET_METADATA:
                metadata = _to_texts(message)
            elif number in (NET_LAYER, NET_LAYERS_V1):
                for name, blob in _blobs(message, number == NET_LAYERS_V1):
                    if name in tensors:
                        refuse(f"has two blobs {printable(name)!r}")
                    tensors[name] = _to_array(name, blob)
        if not tensors:
            refuse("has no layers with blobs; a .caffemodel file has them, a .prototxt file does not")
        return Contents(tensors, metadata, "caffe")


def _to_texts(message: memoryview) -> dict[str, str]:
    metadata = json.loads(bytes(message))
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        refuse("has metadata that is not a dict of texts")
    return metadata


def _blobs(layer: memoryview, is_v1: bool) -> Iterator[tuple[str, memoryview]]:
    """Yields the blobs of a layer with their tensor names."""
    name_field, blobs_field = (V1_LAYER_NAME, V1_LAYER_BLOBS) if is_v1 else (LAYER_NAME, LAYER_BLOBS)
    name, blobs = "", []
    for number, value in fields(layer):
        if is_v1 and number == V1_LAYER_V0:
            refuse("is from before Caffe 1.0; convert it with upgrade_net_proto_binary of Caffe")
        if number == name_field and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == blobs_field and not isinstance(value, int):
            blobs.append(value)
            if len(blobs) > MOST_BLOBS:
                refuse(f"has a layer with more than {MOST_BLOBS} blobs")
    for i, blob in enumerate(blobs):
        yield f"{name}.{i}", blob


def _to_array(name: str, blob: memoryview) -> "np.ndarray":
    """Returns the values of a blob, after a check that their number fits the shape."""
    import numpy as np

    pieces: dict[int, list[memoryview]] = {BLOB_DATA: [], BLOB_DOUBLE_DATA: []}
    shape: list[int] | None = None
    legacy = dict.fromkeys(BLOB_LEGACY_SHAPE, 1)
    for number, value in fields(blob):
        if number in pieces and not isinstance(value, int):
            pieces[number].append(value)
            if len(pieces[number]) > MOST_PIECES:
                refuse("has values that are not packed, which Caffe never writes")
        elif number == BLOB_SHAPE and not isinstance(value, int):
            shape = _dimensions(value)
        elif number in legacy and isinstance(value, int):
            legacy[number] = value
    if shape is None:
        shape = list(legacy.values())
        if shape[:2] == [1, 1]:  # a bias or an inner product, which older versions store with four dimensions
            shape = shape[2:] if shape[2] > 1 else shape[3:]
    dtype, stored = ("<f8", pieces[BLOB_DOUBLE_DATA]) if pieces[BLOB_DOUBLE_DATA] else ("<f4", pieces[BLOB_DATA])
    values = np.frombuffer(stored[0] if len(stored) == 1 else b"".join(stored), dtype)
    if math.prod(shape) != values.size:
        refuse(f"has {values.size:,} values in the blob {printable(name)!r}, which do not fit its shape")
    return values.reshape(shape).astype(dtype[1:], copy=False)


def _dimensions(message: memoryview) -> list[int]:
    """Returns the dimensions of a shape, packed or one by one."""
    shape: list[int] = []
    for number, value in fields(message):
        if number == SHAPE_DIM:
            shape += [value] if isinstance(value, int) else varints(value[: 10 * MOST_DIMENSIONS])
        if len(shape) > MOST_DIMENSIONS:
            refuse("has a blob with too many dimensions")
    return shape


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a Caffe model with tensors of any shape by name; `layer.0` and `layer.1` are the blobs of a layer.

    Raises:
      UserError: a tensor does not have float32 values, or its name does not end in the index of a blob.
    """
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, array in tensors.items():
        layer, _, index = name.rpartition(".")
        if array.dtype != "float32" or not index.isdecimal():
            raise UserError(f"the tensor {name!r} ({array.dtype}) cannot be a blob of a Caffe model.")
        layers.setdefault(layer, {})[int(index)] = array
    with path.open("wb") as file:
        file.write(encode_field(NET_NAME, path.stem.encode()))
        for layer, blobs in layers.items():
            kind = TYPES.get(blobs[0].ndim, "Parameter")
            parts = [encode_field(LAYER_NAME, layer.encode()), encode_field(LAYER_TYPE, kind.encode())]
            parts += [encode_field(LAYER_BLOBS, _encode_blob(blobs[i])) for i in sorted(blobs)]
            file.write(encode_field(NET_LAYER, b"".join(parts)))
        if metadata:
            file.write(encode_field(NET_METADATA, json.dumps(dict(metadata)).encode()))


def _encode_blob(array: "np.ndarray") -> bytes:
    dimensions = b"".join(encode_varint(size) for size in array.shape)
    shape = encode_field(BLOB_SHAPE, encode_field(SHAPE_DIM, dimensions))
    return shape + encode_field(BLOB_DATA, array.astype("<f4").tobytes())


CAFFE = Format(
    "caffe",
    (".caffemodel",),
    matches=lambda first_bytes: False,  # protobuf has no signature, so only the suffix identifies the format
    read=read,
    write=write,
    naming="caffe",
)
