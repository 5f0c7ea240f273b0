"""The few layers that the families share, and the container that lets a network be entered and left anywhere.

Images and maps are NHWC. A layer computes in the dtype of its input, to which its parameters are brought; statistics
and the classifier have float32 at least (`jaxft.ops.precision`). Paddings are explicit and symmetric, as in the
networks' published definitions: XLA's "SAME" pads a strided convolution on one side only, which is right for networks
from TensorFlow alone (`conv_same`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxft.ops.convolution import conv_general_dilated
from jaxft.ops.precision import at_least_float32, in_dtype_of_input

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
        promote_dtype=in_dtype_of_input,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def conv_same(
    features: int, kernel: int, stride: int = 1, groups: int = 1, name: str | None = None, symmetric: bool = False
) -> nn.Conv:
    """Returns a square convolution without bias and with TensorFlow's padding: the odd pixel bottom and right.

    If `symmetric`, (kernel - 1) / 2 pixels are added on each side.
    """
    border = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((border, border), (border, border)) if symmetric else "SAME",
        feature_group_count=groups,
        use_bias=False,
        kernel_init=HE_NORMAL,
        promote_dtype=in_dtype_of_input,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def max_pool(x: jax.Array, size: int, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Returns the maximum of each square of `x: [n, height, width, channels]`, padded with -inf.

    The gradient goes to the first of equal maxima, as XLA's does. XLA scatters it one by one, which on a CPU takes ten
    times as long as what is done there.
    """
    if jax.default_backend() != "cpu":
        return nn.max_pool(x, (size, size), (stride, stride), padding)
    return _max_pool(size, stride, padding, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_pool(size: int, stride: int, padding: tuple[tuple[int, int], tuple[int, int]], x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (size, size), (stride, stride), padding)


def _max_pool_fwd(size: int, stride: int, padding: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    out = _max_pool(size, stride, padding, x)
    return out, (x, out)


def _max_pool_bwd(size: int, stride: int, padding: Any, saved: Any, grads: jax.Array) -> tuple[jax.Array]:
    x, out = saved
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    (_, rows, columns, _), (height, width) = out.shape, padded.shape[1:3]
    taken = jnp.zeros(out.shape, bool)
    parts = {}  # what goes to each place of the square
    for i, j in np.ndindex(size, size):
        seen = padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        hit = (seen == out) & ~taken
        taken |= hit
        parts[i, j] = jnp.where(hit, grads, 0)

    # Of every `stride`-th row and column all receive the same places, shifted by whole squares.
    tall, wide = -(-height // stride), -(-width // stride)

    def received(i: int, j: int) -> jax.Array:
        total = jnp.zeros((), x.dtype)
        for di, dj in np.ndindex(-(-(size - i) // stride), -(-(size - j) // stride)):
            border = ((0, 0), (di, tall - rows - di), (dj, wide - columns - dj), (0, 0))
            total += jnp.pad(parts[i + di * stride, j + dj * stride], border)
        return jnp.broadcast_to(total, (len(x), tall, wide, x.shape[-1]))

    woven = jnp.stack([jnp.stack([received(i, j) for j in range(stride)], 3) for i in range(stride)], 2)
    (top, _), (left, _) = padding
    whole = woven.reshape(len(x), tall * stride, wide * stride, -1)
    return (whole[:, top : top + x.shape[1], left : left + x.shape[2]],)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


class Pool(nn.Module):
    """An average pool: global, or (`side`) of squares, whose averages are laid in a row; a unit without parameters.

    What it returns are the features that the head classifies.
    """

    side: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [n, features], float32 at least, of `x: [n, height, width, channels]`."""
        x = at_least_float32(x)
        if self.side is None:
            return x.mean((1, 2))
        sums = nn.pool(x, 0.0, jax.lax.add, (self.side, self.side), (self.side, self.side), "VALID")
        return (sums / self.side**2).reshape(x.shape[0], -1)


class Head(nn.Module):
    """A dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits [n, num_classes], float32 at least, of `x: [n, features]`."""
        x = at_least_float32(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x @ kernel + bias.reshape(1, -1)


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, with PyTorch's running statistics (Ioffe & Szegedy 2015).

    With `train`, the batch's own statistics normalize and the running ones move by `1 - momentum` towards them; the
    running variance takes the unbiased estimate (n - 1), as PyTorch does and `flax.linen.BatchNorm` does not.

    Where the collection `moments` is mutable, it has the batch's own mean, biased variance and places of an image.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, group_size: int | None = None) -> jax.Array:
        """Returns `x: [..., features]` normalized, scaled and shifted; the arithmetic has float32 at least.

        With `group_size`, images are normalized in training in groups of so many, which must divide their number (ghost
        batch normalization; Hoffer, Hubara & Soudry 2017, algorithm 1). The running statistics move as if the groups
        came one after another.
        """
        dtype, x, features = x.dtype, at_least_float32(x), x.shape[-1]
        shape = (1,) * (x.ndim - 1) + (features,)
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        mean, var = running_mean.value, running_var.value
        if train and group_size is not None and group_size < len(x):
            groups = x.reshape(-1, group_size, *x.shape[1:])
            axes = tuple(range(1, groups.ndim - 1))
            count = groups[0].size // features
            means = groups.mean(axes, keepdims=True)
            variances = jnp.square(groups - means).mean(axes, keepdims=True)
            # A group's share in the running statistics, those of all after it taken away.
            shares = (1 - self.momentum) * self.momentum ** np.arange(len(groups) - 1, -1, -1)
            kept = self.momentum ** len(groups)
            unbiased = variances * (count / max(count - 1, 1))
            for running, of_group in ((running_mean, means), (running_var, unbiased)):
                running.value = kept * running.value + jnp.asarray(shares, x.dtype) @ of_group.reshape(-1, features)
            factors = scale.reshape((1, *shape)) * jax.lax.rsqrt(variances + self.epsilon)
            return (groups * factors + (bias.reshape((1, *shape)) - means * factors)).reshape(x.shape).astype(dtype)
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // features
            mean = x.mean(axes)
            var = jnp.square(x - mean.reshape(shape)).mean(axes)
            for name, value in (("mean", mean), ("var", var), ("values_per_image", count // len(x))):
                self.sow("moments", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)).astype(dtype)


@contextlib.contextmanager
def batch_norm_in_groups(group_size: int | None) -> Iterator[None]:
    """Makes every batch norm that is called within normalize images in groups of so many; none: as it is."""

    def call(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "group_size": group_size}
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(call) if group_size else contextlib.nullcontext():
        yield


def branch(block: nn.Module, y: jax.Array) -> jax.Array:
    """Returns the residual branch `y` of a block, times what the collection `branches` says of it, if anything."""
    if not block.has_variable("branches", "factor"):
        return y
    return y * block.get_variable("branches", "factor").astype(y.dtype)


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

        Both units are run. `train` makes batch normalization use and update the batch's statistics.
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
