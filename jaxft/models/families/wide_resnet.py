"""Wide residual networks for small images: `wrn{6n+4}_{width}`.

Zagoruyko & Komodakis 2016, "Wide residual networks", table 1: batch norm and ReLU before each convolution ("identity
mappings", He et al. 2016), and three stages of 16, 32 and 64 channels times the width. If the number of channels
changes, the shortcut is a 1x1 convolution with the same input as the first convolution of the block, as in the code of
the authors. The published weights are from github.com/karanchahal/distiller.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax

from jaxft.models.families.cifar_resnet import CIFAR10, DISTILLER, WIDTHS, three_stage_taps
from jaxft.models.layers import BatchNorm, Chain, Head, Pool, branch, conv
from jaxft.models.network import (
    Family,
    Preprocessing,
    Published,
    Tap,
)
from jaxft.models.registry import register_family
from jaxft.models.staged import MOST_LAYERS, StagedNetwork


class Stem(nn.Module):
    """A 3x3 convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return conv(WIDTHS[0], 3, name="conv")(x)


class Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, with a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = nn.relu(BatchNorm(name="bn1")(x, train))
        y = conv(self.features, 3, self.stride, name="conv1")(h)
        y = nn.relu(BatchNorm(name="bn2")(y, train))
        y = conv(self.features, 3, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, name="shortcut")(h)
        return branch(self, y) + x


class Stage(Chain):
    """Blocks of one width; the first block has the stride."""

    features: int
    stride: int
    num_blocks: int

    def layers(self) -> Sequence[nn.Module]:
        return [
            Block(self.features, self.stride if i == 0 else 1, name=f"block{i + 1}") for i in range(self.num_blocks)
        ]


class Norm(nn.Module):
    """Batch norm and ReLU after the last residual block; a separate block, so that the head is only the classifier."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.relu(BatchNorm(name="bn")(x, train))


class WideResNet(StagedNetwork):
    """Wide residual network, without dropout between the convolutions of a block; depth = 6n + 4."""

    depth: int = 16
    width: int = 1
    top_blocks: ClassVar[tuple[str, ...]] = ("norm", "pool", "head")

    @property
    def num_blocks(self) -> int:
        """Returns the number of blocks per stage."""
        return (self.depth - 4) // 6

    def layers(self) -> Sequence[nn.Module]:
        stages = [
            Stage(width * self.width, 1 if i == 0 else 2, self.num_blocks, name=f"stage{i + 1}")
            for i, width in enumerate(WIDTHS)
        ]
        head = [Norm(name="norm"), Pool(name="pool"), Head(self.num_classes, name="head")]
        return [Stem(name="stem"), *stages, *head]

    @property
    def architecture(self) -> str:
        return f"wrn{self.depth}_{self.width}"

    @property
    def family(self) -> str:
        return "wide_resnet"

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        return (self.num_blocks,) * 3

    @property
    def taps(self) -> tuple[Tap, ...]:
        taps = three_stage_taps(self.num_blocks)
        return (*taps, taps[-1]._replace(name="norm", block="norm"))

    @property
    def preprocessing(self) -> Preprocessing:
        return CIFAR10


def create(depth: int, width: int, num_classes: int) -> WideResNet:
    """Returns the network of this depth and width.

    Raises:
      ValueError: the depth is not 6n + 4, or depth or width are out of range.
    """
    if not 10 <= depth <= MOST_LAYERS or (depth - 4) % 6:
        raise ValueError(f"the depth is {depth}; it must be 6n + 4: 10, 16, 22, 28, ..., at most {MOST_LAYERS:,}")
    if not 1 <= width <= MOST_LAYERS:
        raise ValueError(f"the width is {width}; it must be from 1 to {MOST_LAYERS:,}")
    return WideResNet(num_classes=num_classes, depth=depth, width=width)


register_family(
    Family(
        r"wrn(\d+)_(\d+)",
        ("wrn10_1", "wrn16_1", "wrn22_1", "wrn16_8", "wrn28_10", "wrn40_4"),
        "Zagoruyko & Komodakis 2016, pre-activation; any depth 6n+4 and any width",
        create,
        (
            Published("wrn10_1.cifar10.safetensors", "wrn10_1", 317_424, "f7fc92f740c7e3f1bf598584f694162f4bd61801f7985c3cbca52827e48ac5e3", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("wrn16_1.cifar10.safetensors", "wrn16_1", 711_408, "500251009d386d593b939062a707931723e799452d816d49e16baa6b42bfc71a", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
        ),
    )
)  # fmt: skip
