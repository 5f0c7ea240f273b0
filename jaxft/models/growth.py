"""Networks with additional units at the top: `{network}+wider{n}` and `{network}+deeper{n}`.

Wang, Ramanan & Hebert 2017, "Growing a brain": fine-tuning adds new units (channels) to a pretrained network, either to
its last layer (WA-CNN, 'wider') or in a new layer on top of it (DA-CNN, 'deeper'). New units learn too slowly if their
activations are smaller than the activations of the old units. The paper therefore divides old and new activations by
their norms, and multiplies them by a learned factor per unit.

jaxft differs from the paper in two points. First, jaxft scales only the new units: at each position of the feature map,
it gives them the root mean square of the old units. This equals the normalization of the paper times the norm of the
old units, and leaves the outputs of the old units bit-identical. Second, the networks in the paper have dense layers
above the feature maps; in jaxft, a pooling layer and the classifier follow the new units.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.models.layers import Pool, conv
from jaxft.models.network import Network, Preprocessing, Tap
from jaxft.ops.precision import Precision, at_least_float32, compute_dtype, products

WIDER = "_wider"  # suffix of the new units: beside `stage3`, they are named `stage3_wider`
DEEPER = "deeper"
NEW_UNITS = rf"(?:[^/]*{WIDER}|{DEEPER})/"  # regular expression for the start of the parameter names of new units
EPSILON = 1e-6


def root_mean_square(x: jax.Array) -> jax.Array:
    """Returns the root mean square over the features of `x: [..., features]`, as [..., 1]."""
    return jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)


class NewUnits(nn.Module):
    """A 3x3 convolution and ReLU, scaled to the root mean square of the old units at each position.

    A learned gain per unit, initially 1, multiplies the result.
    """

    features: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, old: jax.Array) -> jax.Array:
        """Returns the feature maps of the new units, [n, h, w, features].

        Args:
          x: the input of the new units, [n, height, width, channels].
          old: the feature maps of the old units, [n, h, w, old features].
        """
        stride = -(-x.shape[1] // old.shape[1])
        with products(self.precision):
            y = conv(self.features, 3, stride, "conv", use_bias=True)(x.astype(compute_dtype(self.precision, x.dtype)))
        y = nn.relu(at_least_float32(y))
        gain = self.param("gain", nn.initializers.ones, (self.features,))
        return y * (root_mean_square(old) / root_mean_square(y)) * gain.reshape(1, 1, 1, -1)


class Grown(Network):
    """The network `base` with `features` new units; `kind` is 'wider' or 'deeper'.

    - 'wider': the new units have the same input as the last layer below the pool, and their feature maps are appended
      to the output of this layer. The layer is the last stage, the top convolution of EfficientNet, or the norm above
      the last stage of a wide residual network. The layer becomes a single block, because the new units need its input.
    - 'deeper': the new units form a separate block on top of the last layer. The classifier uses only the new units.
    """

    base: Network = None  # type: ignore[assignment]  # required; the default is there because earlier fields have one
    kind: str = "wider"
    features: int = 64

    def setup(self) -> None:
        nn.share_scope(self, self.base)

    @property
    def last(self) -> str:
        """Returns the name of the last layer below the pool."""
        return self.base_block_before(self.base.feature_block).partition("/")[0]

    def base_block_before(self, block: str) -> str:
        """Returns the name of the block of `base` directly before `block`."""
        return self.base.blocks[self.base.blocks.index(block) - 1]

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, after: str | None = None, stop: str | None = None
    ) -> jax.Array:
        """Returns the output of block `stop` for `x`, the output of block `after`; see `Network`.

        Args:
          x: the output of `after`; if `after` is None, preprocessed images [n, height, width, 3].
          train: whether batch norms use the statistics of the batch and update the running statistics.
          after: name of the block whose output is `x`; the blocks above it run. If None, all blocks up to `stop` run.
          stop: name of the last block that runs. If None, the head.

        Raises:
          ValueError: there is no block `after` or `stop`, or `stop` comes before `after`.
        """
        running = self.blocks_after(after, stop)
        grown = self.blocks.index(self.last if self.kind == "wider" else DEEPER)
        below = [block for block in running if block in self.blocks[:grown]]
        above = [block for block in running if block in self.blocks[grown + 1 :]]
        if below:
            x = self.base(x, train, after, below[-1])
        if self.blocks[grown] in running:
            if self.kind == "wider":
                old = self.base(x, train, self.blocks[grown - 1], self.base_block_before(self.base.feature_block))
                new = NewUnits(self.features, self.precision, name=self.last + WIDER)(x, old)
                x = jnp.concatenate([old, new], axis=-1)
            else:
                x = NewUnits(self.features, self.precision, name=DEEPER)(x, x)
        if above:
            x = self.base(x, train, self.base_block_before(above[0]), above[-1])
        return x

    def with_precision(self, precision: Precision) -> "Grown":
        return self.clone(precision=precision, base=self.base.with_precision(precision))

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
    """Returns `model` with `features` new units; `kind` is 'wider' or 'deeper'.

    Raises:
      ValueError: the network has no pool below its classifier (SqueezeNet), or already has new units.
    """
    if not issubclass(model.structure.layers[model.feature_block], Pool):
        raise ValueError("it has no pooling layer below its classifier")
    if isinstance(model, Grown):
        raise ValueError("it already has new units")
    return Grown(num_classes=model.num_classes, base=model, kind=kind, features=features)
