"""Layers that the families share, and `Chain`, a container that runs from any block to any later block.

Images and maps are NHWC. A layer casts its parameters to the dtype of its input and computes in this dtype. Statistics
and the classifier use at least float32 (`jaxft.ops.precision`). Padding is explicit and symmetric, as in the published
definitions of the networks. The "SAME" padding of XLA pads a strided convolution on one side only, which is correct
only for networks from TensorFlow (`conv_same`).
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
    """Returns a square convolution with symmetric padding.

    Args:
      features: number of output channels.
      kernel: side of the kernel, in pixels.
      stride: stride, in pixels.
      name: name of the submodule.
      padding: pixels of padding on each side. If None, (kernel - 1) / 2.
      use_bias: whether the convolution has a bias.
      kernel_init: initializer of the kernel.
    """
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
    """Returns a square convolution without bias, with the "SAME" padding of TensorFlow.

    If the total padding is odd, the extra pixel is at the bottom and right.

    Args:
      features: number of output channels.
      kernel: side of the kernel, in pixels.
      stride: stride, in pixels.
      groups: number of channel groups; the number of input channels gives a depthwise convolution.
      name: name of the submodule.
      symmetric: whether to pad (kernel - 1) / 2 pixels on each side instead.
    """
    padding = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)) if symmetric else "SAME",
        feature_group_count=groups,
        use_bias=False,
        kernel_init=HE_NORMAL,
        promote_dtype=in_dtype_of_input,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def max_pool(x: jax.Array, size: int, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Returns the maximum of each window of `x`, as [n, rows, columns, channels].

    If several values of a window equal the maximum, the first one receives the gradient, as in XLA. On a CPU, the
    gradient is computed with pads and sums, in a tenth of the time of the scatter that XLA would use.

    Args:
      x: maps, [n, height, width, channels].
      size: side of a window, in pixels.
      stride: stride, in pixels.
      padding: pixels of padding with -inf: (top, bottom) and (left, right).
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
    assigned = jnp.zeros(out.shape, bool)
    grads_by_offset = {}  # gradients of the windows whose maximum is at row i and column j of the window
    for i, j in np.ndindex(size, size):
        values = padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        is_first_maximum = (values == out) & ~assigned
        assigned |= is_first_maximum
        grads_by_offset[i, j] = jnp.where(is_first_maximum, grads, 0)

    # A pixel at (i, j) modulo `stride` has the same offsets in its windows as all other pixels at (i, j) modulo
    # `stride`. So the sum over the windows of a pixel is a sum of shifted maps.
    num_rows, num_columns = -(-height // stride), -(-width // stride)

    def pixel_grads(i: int, j: int) -> jax.Array:
        total = jnp.zeros((), x.dtype)
        for di, dj in np.ndindex(-(-(size - i) // stride), -(-(size - j) // stride)):
            border = ((0, 0), (di, num_rows - rows - di), (dj, num_columns - columns - dj), (0, 0))
            total += jnp.pad(grads_by_offset[i + di * stride, j + dj * stride], border)
        return jnp.broadcast_to(total, (len(x), num_rows, num_columns, x.shape[-1]))

    interleaved = jnp.stack([jnp.stack([pixel_grads(i, j) for j in range(stride)], 3) for i in range(stride)], 2)
    (top, _), (left, _) = padding
    padded_grads = interleaved.reshape(len(x), num_rows * stride, num_columns * stride, -1)
    return (padded_grads[:, top : top + x.shape[1], left : left + x.shape[2]],)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


class Pool(nn.Module):
    """Average pooling, whose output is the features that the head classifies.

    If `side` is None, pooling is global. Otherwise, it averages windows of `side` x `side` and flattens the result.
    """

    side: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns features [n, features], at least float32, for maps `x: [n, height, width, channels]`."""
        x = at_least_float32(x)
        if self.side is None:
            return x.mean((1, 2))
        sums = nn.pool(x, 0.0, jax.lax.add, (self.side, self.side), (self.side, self.side), "VALID")
        return (sums / self.side**2).reshape(x.shape[0], -1)


class Head(nn.Module):
    """A dense layer from features to logits."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits [n, num_classes], at least float32, for features `x: [n, features]`."""
        x = at_least_float32(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return x @ kernel + bias.reshape(1, -1)


class BatchNorm(nn.Module):
    """Batch normalization over all axes except the last (Ioffe & Szegedy 2015), with running statistics as in PyTorch.

    In training, the statistics of the batch normalize it. The running statistics are moving averages of them:
    momentum * running + (1 - momentum) * batch. The running variance averages the unbiased estimate (n - 1), as in
    PyTorch, but unlike `flax.linen.BatchNorm`.

    If the collection `moments` is mutable, it receives the mean and the biased variance of the batch, and the number of
    positions per image.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, group_size: int | None = None) -> jax.Array:
        """Returns `x: [..., features]` normalized, scaled and shifted, computed in at least float32.

        If `group_size` is not None, each group of `group_size` images is normalized separately in training (ghost batch
        normalization; Hoffer, Hubara & Soudry 2017, algorithm 1). `group_size` must divide the number of images. The
        groups update the running statistics one after another.
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
            # Weight of each group in the running statistics, after the updates by all later groups.
            weights = (1 - self.momentum) * self.momentum ** np.arange(len(groups) - 1, -1, -1)
            decay = self.momentum ** len(groups)
            unbiased = variances * (count / max(count - 1, 1))
            for running, by_group in ((running_mean, means), (running_var, unbiased)):
                running.value = decay * running.value + jnp.asarray(weights, x.dtype) @ by_group.reshape(-1, features)
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
    """Makes each `BatchNorm` called in this context normalize groups of `group_size` images; None changes nothing."""

    def call(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "group_size": group_size}
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(call) if group_size else contextlib.nullcontext():
        yield


def branch(block: nn.Module, y: jax.Array) -> jax.Array:
    """Returns the output `y: [n, height, width, channels]` of a residual branch, scaled for stochastic depth.

    The collection `branches` has the scale of the branch of `block`; without it, `y` is returned unchanged.
    """
    if not block.has_variable("branches", "factor"):
        return y
    return y * block.get_variable("branches", "factor").astype(y.dtype)


class Chain(nn.Module):
    """A sequence of named modules, which can continue after any of them and stop at any later one.

    If a module is itself a chain, its modules have names such as `stage1/block2`. A subclass defines `layers`.
    """

    def layers(self) -> Sequence[nn.Module]:
        """Returns the modules in order, each with a name.

        Raises:
          AttributeError: the subclass does not define this method.
        """
        raise AttributeError(f"{type(self).__name__} does not define `layers`.")

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, after: str | None = None, stop: str | None = None
    ) -> jax.Array:
        """Returns the output of module `stop` for `x`, the output of module `after`.

        Args:
          x: the output of `after`; if `after` is None, the input of the chain.
          train: whether batch norms use the statistics of the batch and update the running statistics.
          after: name of the last module that does not run. If None, all modules up to `stop` run.
          stop: name of the last module that runs, at or above `after`. If None, the last module of the chain.
        """
        layers = self.layers()
        names = [layer.name for layer in layers]
        below, _, below_inside = (after or "").partition("/")
        last, _, last_inside = (stop or "").partition("/")
        begin = names.index(below) if below else -1
        end = names.index(last) if last else len(names) - 1
        if not below_inside:  # otherwise, later modules inside `below` still run
            begin += 1
        for i in range(begin, end + 1):
            inside = {}
            if i == begin and below_inside:
                inside["after"] = below_inside
            if i == end and last_inside:
                inside["stop"] = last_inside
            x = layers[i](x, train, **inside)
        return x
