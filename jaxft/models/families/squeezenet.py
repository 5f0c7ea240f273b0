"""SqueezeNet 1.0 and 1.1 for ImageNet (Iandola et al. 2016, table 1, and the authors' release of 1.1).

Three conventions, each with a network's name of its own, because the same numbers give other outputs under another.
How tensors are called is apart from it (`jaxft.weights.namings.squeezenet`).

`squeezenet1_0`, `squeezenet1_1`: torchvision's. RGB by ImageNet's mean and standard deviation, 224 px; pools round
their number of windows up.

`squeezenet1_0_caffe`: the authors' own. BGR, 0..255, minus a mean, 227 px; torchvision's otherwise, but for a border of
one around the classifier's map.

`squeezenet1_1_keras`: github.com/rcmalli/keras-squeezenet. Input as Caffe's, pools round down.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.models.layers import conv, max_pool
from jaxft.models.network import IMAGENET, Extent, Family, Network, Preprocessing, Published, Tap
from jaxft.models.registry import register_family
from jaxft.ops.precision import at_least_float32

CAFFE = Preprocessing(227, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), value_range=255.0, channel_order="bgr")
SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}  # features of each fire module's first convolution
EXPANSION = 4  # of each of its two others
STEM = {0: (96, 7), 1: (64, 3)}  # features and kernel, by version
POOL_AFTER = {0: ("stem", "fire4", "fire8"), 1: ("stem", "fire3", "fire5")}
# Without batch norm, signals keep their size forwards: fan_in, where the other families have fan_out.
HE_UNIFORM = nn.initializers.he_uniform()
SMALL_NORMAL = nn.initializers.normal(0.01)


def pool(x: jax.Array, round_up: bool) -> jax.Array:
    """Returns the 3x3 maximum of stride 2; rounding up, the last window may reach over the border by one."""
    below, right = ((size - 3) % 2 if round_up else 0 for size in x.shape[1:3])
    return max_pool(x, 3, 2, ((0, below), (0, right)))


class Stem(nn.Module):
    """A convolution of stride 2 without padding, ReLU, and a pool."""

    features: int
    kernel: int
    round_up: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(self.features, self.kernel, 2, "conv", padding=0, use_bias=True, kernel_init=HE_UNIFORM)(x)
        return pool(nn.relu(x), self.round_up)


class Fire(nn.Module):
    """A 1x1 convolution to few features, then a 1x1 and a 3x3 one to many side by side; where `pool`, a pool."""

    squeeze: int
    pool: bool
    round_up: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make = functools.partial(conv, use_bias=True, kernel_init=HE_UNIFORM)
        x = nn.relu(make(self.squeeze, 1, name="squeeze")(x))
        one = make(EXPANSION * self.squeeze, 1, name="expand1x1")(x)
        three = make(EXPANSION * self.squeeze, 3, name="expand3x3")(x)
        x = nn.relu(jnp.concatenate([one, three], axis=-1))
        return pool(x, self.round_up) if self.pool else x


class Head(nn.Module):
    """A 1x1 convolution to the classes, ReLU, and a global average pool: logits are never below 0."""

    num_classes: int
    padding: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if 0 in x.shape:
            raise ValueError("nothing of them reaches the head")
        x = at_least_float32(x)
        x = conv(self.num_classes, 1, name="conv", padding=self.padding, use_bias=True, kernel_init=SMALL_NORMAL)(x)
        return nn.relu(x).mean((1, 2))


class SqueezeNet(Network):
    """SqueezeNet 1.`version` as 'torch', 'caffe' or 'keras' computes it; no dropout before the classifier."""

    version: int = 0
    convention: str = "torch"

    def layers(self) -> Sequence[nn.Module]:
        round_up = self.convention != "keras"
        features, kernel = STEM[self.version]
        fires = [
            Fire(squeeze, f"fire{i}" in self.pool_after, round_up, name=f"fire{i}") for i, squeeze in SQUEEZE.items()
        ]
        head = Head(self.num_classes, padding=1 if self.convention == "caffe" else 0, name="head")
        return [Stem(features, kernel, round_up, name="stem"), *fires, head]

    @property
    def architecture(self) -> str:
        return f"squeezenet1_{self.version}" + ("" if self.convention == "torch" else f"_{self.convention}")

    @property
    def family(self) -> str:
        return "squeezenet"

    @property
    def naming(self) -> str:
        return "keras" if self.convention == "keras" else "torchvision"

    @property
    def pool_after(self) -> tuple[str, ...]:
        """Returns the units that end with a pool."""
        return POOL_AFTER[self.version]

    @property
    def blocks(self) -> tuple[str, ...]:
        return ("stem", *(f"fire{i}" for i in SQUEEZE), "head")

    @property
    def taps(self) -> tuple[Tap, ...]:
        extent, taps = Extent().after(STEM[self.version][1], 2), []
        for block in self.blocks[:-1]:
            if block != "stem":
                extent = extent.after(3)
            if block in self.pool_after:
                extent = extent.after(3, 2)
            if block in (*self.pool_after, "fire9"):
                taps.append(Tap(block, block, *extent))
        return tuple(taps)

    @property
    def preprocessing(self) -> Preprocessing:
        return IMAGENET if self.convention == "torch" else CAFFE


def create(version: int, convention: str | None, num_classes: int) -> SqueezeNet:
    """Returns the network; without a convention it computes as torchvision's."""
    return SqueezeNet(num_classes=num_classes, version=version, convention=convention or "torch")


register_family(
    Family(
        r"squeezenet1_([01])(?:_(caffe|keras))?",
        ("squeezenet1_0", "squeezenet1_1", "squeezenet1_0_caffe", "squeezenet1_1_keras"),
        "Iandola et al. 2016, as torchvision computes it, or as Caffe or Keras does (BGR less a mean)",
        create,
        (
            Published("squeezenet1_0.imagenet-deepcompressed.safetensors", "squeezenet1_0_caffe", 4_998_592, "127600bdcce334846f03779e4b53a39730b36d9f2c7c12ddac2e6136b40cba85", "imagenet", CAFFE, "github.com/songhan/SqueezeNet-Deep-Compression, BSD-2-Clause; decoded to dense float32"),  # noqa: E501
            Published("squeezenet1_1.imagenet-notop.safetensors", "squeezenet1_1_keras", 2_894_384, "2617a23dded33a40231e334395227e2df3298b853ba3ee7af8620070aa65ef8b", "imagenet", CAFFE, "github.com/DeepCognition/keras-squeezenet, MIT; names shortened"),  # noqa: E501
        ),
    )
)  # fmt: skip
