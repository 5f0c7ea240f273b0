"""The few layers that the families share, and the container that lets a network be entered and left anywhere.

Images and maps are NHWC. Paddings are explicit and symmetric, as in the networks' published definitions: XLA's
"SAME" pads a strided convolution on one side only, which is right for networks from TensorFlow alone (`conv_same`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He 2015


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    name: str | None = None,
    padding: int | None = None,
    use_bias: bool = False,
    kernel_init: nn.initializers.Initializer = HE_NORMAL,
) -> nn.Conv:
    """Returns a square convolution, padded by `padding` (None: (kernel - 1) / 2) on each side."""
    padding = (kernel - 1) // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=use_bias,
        kernel_init=kernel_init,
        name=name,
    )


def conv_same(features: int, kernel: int, stride: int = 1, groups: int = 1, name: str | None = None) -> nn.Conv:
    """Returns a square convolution without bias and with TensorFlow's padding: the odd pixel bottom and right."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding="SAME",
        feature_group_count=groups,
        use_bias=False,
        kernel_init=HE_NORMAL,
        conv_general_dilated=depthwise if groups == features else pointwise if kernel == stride == 1 else None,
        name=name,
    )


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


class Pool(nn.Module):
    """An average pool: global, or (`side`) of squares, whose averages are laid in a row; a unit without parameters.

    What it returns are the features that the head classifies.
    """

    side: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [n, features] of `x: [n, height, width, channels]`."""
        if self.side is None:
            return x.mean((1, 2))
        return nn.avg_pool(x, (self.side, self.side), (self.side, self.side)).reshape(x.shape[0], -1)


class Head(nn.Module):
    """A dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits [n, num_classes] of `x: [n, features]`."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x @ kernel + bias.reshape(1, -1)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics (Ioffe & Szegedy 2015).

    With `train`, the batch's own statistics normalise and the running ones move by `1 - momentum` towards them; the
    running variance takes the unbiased estimate (n - 1), as PyTorch does and `flax.linen.BatchNorm` does not.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns `x: [..., features]` normalised, scaled and shifted."""
        features = x.shape[-1]
        shape = (1,) * (x.ndim - 1) + (features,)
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // features
            mean = x.mean(axes)
            var = jnp.square(x - mean.reshape(shape)).mean(axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


class Chain(nn.Module):
    """Named units called one after another, which can be entered and left at any of them.

    A unit that is itself a chain lends its units' names: `stage1/block2`. A subclass gives `layers`.
    """

    def layers(self) -> Sequence[nn.Module]:
        """Returns the units in order, each with its name."""
        raise AttributeError(f"{type(self).__name__} names no layers.")

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, start: str | None = None, stop: str | None = None
    ) -> jax.Array:
        """Returns the output of unit `stop` (the last by default) for `x`, the input of unit `start` (the first).

        Both units are run. `train` makes batch normalisation use and update the batch's statistics.
        """
        layers = self.layers()
        names = [layer.name for layer in layers]
        first, _, first_inside = (start or "").partition("/")
        last, _, last_inside = (stop or "").partition("/")
        for name in (first, last):
            if name and name not in names:
                raise ValueError(f"there is no unit {name!r}; units are {', '.join(map(str, names))}.")
        begin = names.index(first) if first else 0
        end = names.index(last) if last else len(names) - 1
        if begin > end:
            raise ValueError(f"start={start!r} comes after stop={stop!r}.")
        for i in range(begin, end + 1):
            inside = {}
            if i == begin and first_inside:
                inside["start"] = first_inside
            if i == end and last_inside:
                inside["stop"] = last_inside
            x = layers[i](x, train, **inside)
        return x
