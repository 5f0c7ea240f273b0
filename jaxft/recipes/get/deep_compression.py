"""Decoder of weights compressed by Deep Compression (Han, Mao & Dally 2016, section 2 and 3).

Every layer is pruned and quantized: it has a codebook of 256 values, and for each weight that is not pruned a code of
eight bits and the distance to the previous weight, less 1, in four bits. Longer distances have filler weights, whose
code is the code of zero.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError

CODEBOOK_SIZE = 256


def decode(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns the float32 tensors `LAYER.weight` and `LAYER.bias` of a compressed file.

    The file begins with the number of stored weights of each layer. Then it has the codebook, the biases, the codes and
    the distances of each layer.

    Args:
      path: the file.
      shapes: the shape of the weights of each layer, [outputs, ...], in the order of the file.

    Raises:
      UserError: the file is longer or shorter than these layers.
    """
    content = path.read_bytes()
    offset = 0

    def read(dtype: str, count: int) -> np.ndarray:
        nonlocal offset
        if offset + count * np.dtype(dtype).itemsize > len(content):
            raise UserError(f"{str(path)!r} is truncated; delete it and download it again.")
        array = np.frombuffer(content, dtype, count, offset)
        offset += array.nbytes
        return array

    tensors = {}
    counts = read("<u4", len(shapes))
    for (layer, shape), count in zip(shapes.items(), counts.tolist(), strict=True):
        codebook, bias = read("<f4", CODEBOOK_SIZE), read("<f4", shape[0])
        codes, distances = read("u1", count), read("u1", (count + 1) // 2)
        weights = np.zeros(int(np.prod(shape)), np.float32)
        gaps = np.stack([distances & 15, distances >> 4], axis=1).reshape(-1)[:count].astype(np.int64)
        weights[np.cumsum(gaps + 1) - 1] = codebook[codes]
        tensors[f"{layer}.weight"] = weights.reshape(shape)
        tensors[f"{layer}.bias"] = bias.copy()
    if offset != len(content):
        raise UserError(f"{str(path)!r} is longer than its layers; delete it and download it again.")
    return tensors
