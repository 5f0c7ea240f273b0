"""LoRA: low-rank updates of frozen kernels. The kernel is W + alpha / rank A B, and only A and B train.

Hu et al. 2022, "LoRA", section 4.1. A kernel `[h, w, in, out]` is treated as the matrix [h w in, out]. So A is a
convolution with the size of the kernel and `rank` output features, and B is a 1x1 convolution, as in PEFT of Hugging
Face. (For convolutions, loralib multiplies the rank by the size of the kernel.) A is normal with variance 1 / (h w in);
the paper gives no number. B is zero, so training starts from the pretrained network. The factors have no weight decay.
"""

import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.core.errors import UserError
from jaxft.core.paths import layer_of

A, B, KERNEL = "/lora_a", "/lora_b", "/kernel"


def is_adapter(name: str) -> bool:
    """Returns whether a leaf is a LoRA factor. Factors are not parameters of the network."""
    return name.endswith((A, B))


def adapter_names(kernel: str) -> tuple[str, str]:
    """Returns the names of the factors A and B of a kernel, `.../lora_a` and `.../lora_b`."""
    return layer_of(kernel) + A, layer_of(kernel) + B


def kernel_of(name: str) -> str:
    """Returns the name of the kernel that the factor `name` updates."""
    return layer_of(name) + KERNEL


def adapter_shape(name: str, kernel: Sequence[int], rank: int) -> tuple[int, int]:
    """Returns the shape of the factor `name` for a kernel of shape `kernel`.

    The rank is at most the smaller dimension of the kernel's matrix.
    """
    rows, columns = math.prod(kernel[:-1]), kernel[-1]
    rank = min(rank, rows, columns)
    return (rows, rank) if name.endswith(A) else (rank, columns)


def check_pairs(frozen: Collection[str]) -> None:
    """Checks that the two LoRA factors of a kernel train together or are frozen together.

    Raises:
      UserError: only one of the two factors is in `frozen`.
    """
    for name in frozen:
        if is_adapter(name):
            other = layer_of(name) + (B if name.endswith(A) else A)
            if other not in frozen:
                raise UserError(
                    f"a rule freezes '{name}' but no rule freezes '{other}'; LoRA trains both factors or neither: "
                    f"use the pattern '{layer_of(name)}/lora_.*', which matches both."
                )


def init_adapters(names: Iterable[str], params: Mapping[str, Any], rank: int, key: jax.Array) -> dict[str, jax.Array]:
    """Returns the initial values of LoRA factors, by name: A [h w in, rank] is normal, B [rank, out] is zero.

    Args:
      names: names of the factors.
      params: the kernels [h, w, in, out], by name.
      rank: the largest rank of an update.
      key: random key; the values of a factor depend only on the key and the name of the factor.
    """
    factors = {}
    for name in names:
        shape = adapter_shape(name, params[kernel_of(name)].shape, rank)
        if name.endswith(B):
            factors[name] = jnp.zeros(shape, jnp.float32)
        else:
            leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            factors[name] = jax.random.normal(leaf_key, shape) / math.sqrt(shape[0])
    return factors


def merge(params: Mapping[str, Any], frozen: Mapping[str, Any], scale: Any) -> dict[str, Any]:
    """Returns `params` with merged kernels W + scale A B instead of LoRA factors; W is the kernel in `frozen`.

    If `params` has no factors, the result equals `params`.
    """
    merged = {name: leaf for name, leaf in params.items() if not is_adapter(name)}
    for name in params:
        if name.endswith(A):
            kernel = frozen[kernel_of(name)]
            update = params[name] @ params[layer_of(name) + B]
            merged[kernel_of(name)] = kernel + scale * update.reshape(kernel.shape)
    return merged
