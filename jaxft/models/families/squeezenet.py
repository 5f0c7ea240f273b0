"""SqueezeNet 1.0 and 1.1 for ImageNet (Iandola et al. 2016, table 1, and the authors' release of 1.1).

There are three conventions. Each has its own network names, because the same weights give different outputs under
another convention. The names of tensors are independent of it (`jaxft.weights.namings.squeezenet`).

`squeezenet1_0`, `squeezenet1_1`: torchvision. RGB, normalized with the mean and standard deviation of ImageNet, 224 px.
The number of pooling windows is rounded up.

`squeezenet1_0_caffe`: the release of the authors. BGR from 0 to 255 minus a mean, 227 px. The classifier pads its input
by one pixel. Otherwise as torchvision.

`squeezenet1_1_keras`: github.com/rcmalli/keras-squeezenet. Input as in Caffe; the number of pooling windows is rounded
down.
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
SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}  # channels of the squeeze layer, by fire module
EXPANSION = 4  # channels of each of the two expand layers, as a multiple of the squeeze layer
STEM = {0: (96, 7), 1: (64, 3)}  # features and kernel, by version
POOL_AFTER = {0: ("stem", "fire4", "fire8"), 1: ("stem", "fire3", "fire5")}
# The network has no batch norm. So the initialization preserves the scale of activations in the forward pass (fan_in);
# the other families use fan_out.
HE_UNIFORM = nn.initializers.he_uniform()
SMALL_NORMAL = nn.initializers.normal(0.01)


def pool(x: jax.Array, round_up: bool) -> jax.Array:
    """Returns 3x3 max pooling of stride 2 of `x: [n, height, width, channels]`.

    If `round_up`, the last window may extend over the border by one pixel.
    """
    bottom, right = ((size - 3) % 2 if round_up else 0 for size in x.shape[1:3])
    return max_pool(x, 3, 2, ((0, bottom), (0, right)))


class Stem(nn.Module):
    """A convolution of stride 2 without padding, ReLU, and max pooling."""

    features: int
    kernel: int
    round_up: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(self.features, self.kernel, 2, "conv", padding=0, use_bias=True, kernel_init=HE_UNIFORM)(x)
        return pool(nn.relu(x), self.round_up)


class Fire(nn.Module):
    """A fire module: a 1x1 squeeze layer, then parallel 1x1 and 3x3 expand layers; max pooling if `pool`."""

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
    """A 1x1 convolution to the classes, ReLU, and global average pooling: logits are never negative."""

    num_classes: int
    padding: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if 0 in x.shape:
            raise ValueError("the input of the head would be empty")
        x = at_least_float32(x)
        x = conv(self.num_classes, 1, name="conv", padding=self.padding, use_bias=True, kernel_init=SMALL_NORMAL)(x)
        return nn.relu(x).mean((1, 2))


class SqueezeNet(Network):
    """SqueezeNet 1.`version` with the `convention` 'torch', 'caffe' or 'keras', without dropout."""

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
        """Returns the names of the blocks that end with max pooling."""
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
    """Returns the network with the `convention` 'caffe' or 'keras', or of torchvision if None."""
    return SqueezeNet(num_classes=num_classes, version=version, convention=convention or "torch")


register_family(
    Family(
        r"squeezenet1_([01])(?:_(caffe|keras))?",
        ("squeezenet1_0", "squeezenet1_1", "squeezenet1_0_caffe", "squeezenet1_1_keras"),
        "Iandola et al. 2016, as in torchvision, or as in Caffe or Keras (BGR minus a mean)",
        create,
        (
            Published("squeezenet1_0.imagenet-deepcompressed.safetensors", "squeezenet1_0_caffe", 4_998_592, "127600bdcce334846f03779e4b53a39730b36d9f2c7c12ddac2e6136b40cba85", "imagenet", CAFFE, "github.com/songhan/SqueezeNet-Deep-Compression, BSD-2-Clause; decoded to dense float32"),  # noqa: E501
            Published("squeezenet1_1.imagenet-notop.safetensors", "squeezenet1_1_keras", 2_894_384, "2617a23dded33a40231e334395227e2df3298b853ba3ee7af8620070aa65ef8b", "imagenet", CAFFE, "github.com/DeepCognition/keras-squeezenet, MIT; names shortened"),  # noqa: E501
            Published("squeezenet1_0-b66bff10.pth", "squeezenet1_0", 0, "b66bff10", "imagenet", IMAGENET, "torchvision, BSD-3-Clause"),  # noqa: E501
            Published("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1", 0, "b8a52dc0", "imagenet", IMAGENET, "torchvision, BSD-3-Clause"),  # noqa: E501
        ),
    )
)  # fmt: skip
