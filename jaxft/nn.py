"""The few layers that the families share, and the container that lets a network be entered and left anywhere.

Images and maps are NHWC. Paddings are explicit and symmetric, as in the networks' published definitions: XLA's
"SAME" pads a strided convolution on one side only.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv(features: int, kernel: int, stride: int = 1, name: str | None = None) -> nn.Conv:
    """Returns a square convolution without bias, padded by (kernel - 1) / 2 on each side."""
    padding = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # He 2015
        name=name,
    )


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
