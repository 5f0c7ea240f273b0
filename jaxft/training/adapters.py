"""Low-rank changes of frozen kernels (LoRA): W + alpha / rank A B, of which A and B train.

Hu et al. 2022, "LoRA", section 4.1. A kernel `[h, w, in, out]` is taken as the matrix [h w in, out], so that A is a
convolution of the kernel's size to `rank` features and B a 1x1 one from these, as in Hugging Face's PEFT (loralib has
another shape for convolutions, of `rank` times the kernel's size). A is normal with the variance 1 / (h w in), for
which the paper names no number, B is zero, and so the start is the pretrained network. Neither is decayed.
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
    """Tells whether a leaf is a factor of a change, which no network has."""
    return name.endswith((A, B))


def adapter_names(kernel: str) -> tuple[str, str]:
    """Returns the names of the factors A and B of a kernel's change, `.../lora_a` and `.../lora_b`."""
    return layer_of(kernel) + A, layer_of(kernel) + B


def kernel_of(name: str) -> str:
    """Returns the name of the kernel that the factor `name` changes."""
    return layer_of(name) + KERNEL


def adapter_shape(name: str, kernel: Sequence[int], rank: int) -> tuple[int, int]:
    """Returns the shape of a factor, of that of its kernel; no rank is above the smaller side of a kernel's matrix."""
    rows, columns = math.prod(kernel[:-1]), kernel[-1]
    least = min(rank, rows, columns)
    return (rows, least) if name.endswith(A) else (least, columns)


def check_pairs(frozen: Collection[str]) -> None:
    """Raises a `UserError` where one factor of a change is frozen and not the other: there is no training one alone."""
    for name in frozen:
        if is_adapter(name):
            other = layer_of(name) + (B if name.endswith(A) else A)
            if other not in frozen:
                raise UserError(
                    f"a rule freezes '{name}' and none '{other}'; a low-rank change trains whole or not at all, so "
                    f"name both, '{layer_of(name)}/lora_.*'."
                )


def init_adapters(names: Iterable[str], params: Mapping[str, Any], rank: int, key: jax.Array) -> dict[str, jax.Array]:
    """Returns the factors `names` at the start."""
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
    """Returns `params` with the changes in the place of their factors: the kernels W + scale A B, W those of `frozen`.

    Without factors it is `params`.
    """
    merged = {name: leaf for name, leaf in params.items() if not is_adapter(name)}
    for name in params:
        if name.endswith(A):
            kernel = frozen[kernel_of(name)]
            update = params[name] @ params[layer_of(name) + B]
            merged[kernel_of(name)] = kernel + scale * update.reshape(kernel.shape)
    return merged
