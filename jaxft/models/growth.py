"""Networks with new units at their top: `{network}+wider{n}` and `{network}+deeper{n}`.

Wang, Ramanan & Hebert 2017, "Growing a brain": a pretrained network is fine-tuned with units that it did not
have, beside those of its last layer (WA-CNN) or in a new layer on top of it (DA-CNN). New units learn too slowly unless
their activations are as large as the old ones': the paper divides both by their norms and multiplies each by a factor
that is learned. Ours divides the new by their own root mean square and multiplies them by that of the old, at each
place of the map: this is theirs times the norm of the old units, which so stay, bit for bit, what they were. Paper and
ours differ in where the units are too: its networks have dense layers above their maps, ours a pool and the classifier.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.models.layers import Pool, conv
from jaxft.models.network import Network, Preprocessing, Tap
from jaxft.ops.precision import Precision, at_least_float32, compute_dtype, products

WIDER = "_wider"  # new units beside a layer are named after it
DEEPER = "deeper"
NEW_UNITS = rf"(?:[^/]*{WIDER}|{DEEPER})/"  # how the names of their parameters begin
EPSILON = 1e-6


def root_mean_square(x: jax.Array) -> jax.Array:
    """Returns [..., 1] of `x: [..., features]`."""
    return jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)


class NewUnits(nn.Module):
    """A 3x3 convolution and ReLU, as large at each place as the old units are, times a factor of each unit.

    Factors are 1 at the start.
    """

    features: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, old: jax.Array) -> jax.Array:
        """Returns [n, h, w, features] of `x`, which they read, for maps as large as `old: [n, h, w, old features]`."""
        stride = -(-x.shape[1] // old.shape[1])
        with products(self.precision):
            y = conv(self.features, 3, stride, "conv", use_bias=True)(x.astype(compute_dtype(self.precision, x.dtype)))
        y = nn.relu(at_least_float32(y))
        gain = self.param("gain", nn.initializers.ones, (self.features,))
        return y * (root_mean_square(old) / root_mean_square(y)) * gain.reshape(1, 1, 1, -1)


class Grown(Network):
    """A network with `features` new units: `kind` 'wider' or 'deeper'.

    wider: they read what the last layer below the pool reads (the last stage; EfficientNet's top convolution; the norm
    above a wide residual network's last stage), and stand beside its features, after them. That layer is one unit then,
    as what the new ones read is known at its start alone. deeper: they read the last layer, and are a unit of their
    own; the classifier sees nothing else.
    """

    base: Network = None  # type: ignore[assignment]  # always given, but fields before it have defaults
    kind: str = "wider"
    features: int = 64

    def setup(self) -> None:
        nn.share_scope(self, self.base)

    @property
    def last(self) -> str:
        """Returns the last layer below the pool."""
        return self.base.blocks[self.base.blocks.index(self.base.feature_block) - 1].partition("/")[0]

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, start: str | None = None, stop: str | None = None
    ) -> jax.Array:
        """Returns the output of unit `stop` for the input of unit `start`, as every network does."""
        blocks = self.blocks
        begin, end = (blocks.index(start) if start else 0), (blocks.index(stop) if stop else len(blocks) - 1)
        if begin > end:
            raise ValueError(f"start={start!r} comes after stop={stop!r}.")
        grown = blocks.index(self.last if self.kind == "wider" else DEEPER)
        if begin < grown:
            x = self.base(x, train, start, blocks[min(end, grown - 1)])
        if begin <= grown <= end:
            if self.kind == "wider":
                old = self.base(x, train, self.last, self.last)
                x = jnp.concatenate(
                    [old, NewUnits(self.features, self.precision, name=self.last + WIDER)(x, old)], axis=-1
                )
            else:
                x = NewUnits(self.features, self.precision, name=DEEPER)(x, x)
        if end > grown:
            x = self.base(x, train, blocks[max(begin, grown + 1)], blocks[end])
        return x

    def computing(self, precision: Precision) -> "Grown":
        return self.clone(precision=precision, base=self.base.computing(precision))

    @property
    def architecture(self) -> str:
        return f"{self.base.architecture}+{self.kind}{self.features}"

    @property
    def family(self) -> str:
        return self.base.family

    @property
    def naming(self) -> str:
        return self.base.naming

    @property
    def blocks(self) -> tuple[str, ...]:
        *backbone, pool, head = self.base.blocks
        if self.kind == "deeper":
            return (*backbone, DEEPER, pool, head)
        below = [block for block in backbone if block.partition("/")[0] != self.last]
        return (*below, self.last, pool, head)

    @property
    def taps(self) -> tuple[Tap, ...]:
        if self.kind == "deeper":
            top = self.base.taps[-1]
            below = top.receptive_field_px
            field = None if below is None else below + 2 * top.stride_px
            return (*self.base.taps, Tap(DEEPER, DEEPER, top.stride_px, field))
        taps = [tap for tap in self.base.taps if tap.block in self.blocks]
        return (*taps, self.base.taps[-1]._replace(block=self.last))

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return self.base.residual_blocks

    @property
    def flattened_channels(self) -> int | None:
        below = self.base.flattened_channels
        if below is None:
            return None
        return self.features + (below if self.kind == "wider" else 0)

    @property
    def preprocessing(self) -> Preprocessing:
        return self.base.preprocessing


def grow(model: Network, kind: str, features: int) -> Grown:
    """Returns `model` with new units.

    Raises a `ValueError` for a network without a pool below its classifier (SqueezeNet), or one that is grown already.
    """
    if not issubclass(model.structure.layers[model.feature_block], Pool):
        raise ValueError("its classifier reads maps, so that no layer is the last below a pool")
    if isinstance(model, Grown):
        raise ValueError("it has new units already")
    return Grown(num_classes=model.num_classes, base=model, kind=kind, features=features)
