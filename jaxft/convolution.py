"""Convolutions with the values and gradients of `lax.conv_general_dilated`, by what is fast on the device.

A layer takes one of them as `nn.Conv(conv_general_dilated=...)`. Images and maps are NHWC, kernels HWIO.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]
Binary = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Window:
    """What is static in a convolution, as `lax.conv_general_dilated` takes it."""

    strides: tuple[int, ...]
    padding: tuple[Pair, ...]
    lhs_dilation: tuple[int, ...] | None
    rhs_dilation: tuple[int, ...] | None
    dimension_numbers: jax.lax.ConvDimensionNumbers
    groups: int
    precision: Any

    def __call__(self, images: jax.Array, kernel: jax.Array) -> jax.Array:
        """Returns XLA's convolution."""
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            self.strides,
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
            self.dimension_numbers,
            self.groups,
            precision=self.precision,
        )


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns `lax.conv_general_dilated` of the same arguments, with its gradients, to any order in reverse mode.

    Alone it is XLA's. Under `vmap`, XLA makes one grouped convolution of as many groups as there are lanes where both
    images and kernels are batched, which on a CPU takes several times as long as the lanes one after another; there
    the lanes are written out instead. Forward-mode derivatives are an error of JAX's.
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if isinstance(padding, str):
        spatial = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
        dilation = rhs_dilation or [1] * len(spatial)
        effective = [(size - 1) * step + 1 for size, step in zip(spatial, dilation)]
        sizes = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
        padding = jax.lax.padtype_to_pads(sizes, effective, window_strides, padding)
    window = Window(
        tuple(window_strides),
        tuple((int(low), int(high)) for low, high in padding),
        tuple(lhs_dilation) if lhs_dilation else None,
        tuple(rhs_dilation) if rhs_dilation else None,
        numbers,
        feature_group_count,
        precision,
    )
    return _make_convolution(window, lhs.shape, rhs.shape)(lhs, rhs)


@functools.cache
def _make_convolution(window: Window, images_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Binary:
    """Returns the convolution; each derivative of it is one of three bilinear functions: itself and its transposes."""

    def to_images(grads: jax.Array, kernel: jax.Array) -> jax.Array:
        images = jax.ShapeDtypeStruct(images_shape, grads.dtype)
        return jax.linear_transpose(lambda x: window(x, kernel), images)(grads)[0]

    def to_kernel(images: jax.Array, grads: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct(kernel_shape, grads.dtype)
        return jax.linear_transpose(lambda k: window(images, k), kernel)(grads)[0]

    def differentiable(function: Binary, backward: Callable[..., tuple[jax.Array, jax.Array]]) -> Binary:
        # JAX cannot differentiate what has a rule of its own for vmap; so each of the three has one for both, and calls
        # itself in its forward pass, which second derivatives differentiate.
        wrapped = jax.custom_vjp(_by_lanes(function))
        wrapped.defvjp(lambda a, b: (wrapped(a, b), (a, b)), lambda saved, out: backward(*saved, out))
        return wrapped

    convolution = differentiable(window, lambda x, k, out: (images_gradient(out, k), kernel_gradient(x, out)))
    images_gradient = differentiable(to_images, lambda g, k, out: (convolution(out, k), kernel_gradient(out, g)))
    kernel_gradient = differentiable(to_kernel, lambda x, g, out: (images_gradient(g, out), convolution(x, out)))
    return convolution


def _by_lanes(function: Binary) -> Binary:
    """Returns `function`, whose lanes under `vmap` are written out one after another where both arguments have them."""
    one = jax.custom_batching.custom_vmap(function)

    @one.def_vmap
    def rule(axis_size: int, in_batched: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        if all(in_batched) and jax.default_backend() == "cpu":
            return jnp.stack([one(a[lane], b[lane]) for lane in range(axis_size)]), True
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(function, in_axes=axes)(a, b), True

    return one


def pointwise(images: jax.Array, kernel: jax.Array, *_: Any, precision: jax.lax.PrecisionLike = None, **__: Any) -> Any:
    """Returns `lax.conv_general_dilated` of `images: [n, h, w, c]` and `kernel: [1, 1, c, features]`, stride 1.

    As a matrix product, whose gradients XLA's CPU backend computes without transposing the images.
    """
    return jax.lax.dot_general(images, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision)


def depthwise(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: jax.lax.ConvDimensionNumbers,
    feature_group_count: int,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns `lax.conv_general_dilated` of `images: [n, h, w, c]` and `kernel: [k, k, 1, c]`, a filter a channel.

    On a CPU, where XLA runs depthwise convolutions 16 to 79 times slower than PyTorch, it is the sum of the shifted
    images, each times its row of the kernel; elsewhere XLA's own.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return _shifted_products(images, kernel, tuple(strides), tuple(tuple(side) for side in padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted_products(images: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """Returns the depthwise convolution as a sum over the kernel's places.

    Its gradients are sums of the same kind, which XLA's own derivative of this sum is several times slower than.
    """
    # Without the barrier XLA computes whatever made the images anew for every place of the kernel.
    padded = jax.lax.optimization_barrier(jnp.pad(images, ((0, 0), *padding, (0, 0))))
    rows, columns = ((size - k) // stride + 1 for size, k, stride in zip(padded.shape[1:3], kernel.shape[:2], strides))
    total = jnp.zeros((), images.dtype)
    for i, j in np.ndindex(kernel.shape[:2]):
        shifted = padded[:, _every(i, rows, strides[0]), _every(j, columns, strides[1])]
        total = total + shifted * kernel[i, j].reshape(1, 1, 1, -1)
    return total


def _every(first: int, count: int, stride: int) -> slice:
    return slice(first, first + (count - 1) * stride + 1, stride)


def _shifted_products_fwd(images: Any, kernel: Any, strides: Pair, padding: tuple[Pair, Pair]) -> Any:
    return _shifted_products(images, kernel, strides, padding), (images, kernel)


def _shifted_products_bwd(strides: Pair, padding: tuple[Pair, Pair], saved: Any, grads: jax.Array) -> Any:
    images, kernel = saved
    grads = jax.lax.optimization_barrier(grads)
    # Towards the images: the gradients, as far apart as the strides, under the kernel turned round.
    border = []
    for size, k, stride, (before, _), count in zip(
        images.shape[1:3], kernel.shape[:2], strides, padding, grads.shape[1:3]
    ):
        low = k - 1 - before
        border.append((low, size + k - 2 - (count - 1) * stride - low, stride - 1))
    spread = jax.lax.pad(grads, jnp.zeros((), grads.dtype), ((0, 0, 0), *border, (0, 0, 0)))
    to_images = _shifted_products(spread, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))

    # Towards the kernel: image by image, each of which then stays in the processor's cache for all of its shifts.
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    _, rows, columns, channels = grads.shape
    places = list(np.ndindex(kernel.shape[:2]))

    def add(sums: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, grad = one
        added = []
        for place, (i, j) in enumerate(places):
            total = sums[place]
            for row in range(rows):
                total = total + image[i + row * strides[0], _every(j, columns, strides[1])] * grad[row]
            added.append(total)
        return jnp.stack(added), None

    sums, _ = jax.lax.scan(add, jnp.zeros((len(places), columns, channels), grads.dtype), (padded, grads))
    return to_images, sums.sum(1).reshape(kernel.shape)


_shifted_products.defvjp(_shifted_products_fwd, _shifted_products_bwd)
