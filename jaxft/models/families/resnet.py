"""Residual networks for ImageNet: `resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152`.

He, Zhang, Ren & Sun 2016, "Deep residual learning", table 1, in the layout of torchvision. Shortcuts are projections
wherever the shape changes. In a bottleneck, the 3x3 convolution has the stride (v1.5); in the paper, the first 1x1
convolution has it.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxft.models.families.cifar_resnet import BasicBlock, Downsample
from jaxft.models.layers import BatchNorm, Chain, Head, Pool, branch, conv, max_pool
from jaxft.models.network import (
    IMAGENET,
    Extent,
    Family,
    Preprocessing,
    Published,
    Tap,
)
from jaxft.models.registry import register_family
from jaxft.models.staged import StagedNetwork

WIDTHS = (64, 128, 256, 512)
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4  # output channels of a bottleneck, as a multiple of its width


class Stem(nn.Module):
    """A 7x7 convolution of stride 2, batch norm, ReLU, and 3x3 max pooling of stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(WIDTHS[0], 7, 2, name="conv")(x)
        x = nn.relu(BatchNorm(name="bn")(x, train))
        return max_pool(x, 3, 2, ((1, 1), (1, 1)))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution with a shortcut; the output has four times the features."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = EXPANSION * self.features
        y = nn.relu(BatchNorm(name="bn1")(conv(self.features, 1, name="conv1")(x), train))
        y = nn.relu(BatchNorm(name="bn2")(conv(self.features, 3, self.stride, name="conv2")(y), train))
        y = BatchNorm(name="bn3")(conv(features, 1, name="conv3")(y), train)
        if x.shape[-1] != features or self.stride != 1:
            x = Downsample(features, self.stride, name="downsample")(x, train)
        return nn.relu(branch(self, y) + x)


class Stage(Chain):
    """Blocks of one width; the first block has the stride."""

    features: int
    stride: int
    num_blocks: int
    bottleneck: bool

    def layers(self) -> Sequence[nn.Module]:
        return [self.block(self.stride if i == 0 else 1, f"block{i + 1}") for i in range(self.num_blocks)]

    def block(self, stride: int, name: str) -> nn.Module:
        """Returns the block `name`."""
        if self.bottleneck:
            return Bottleneck(self.features, stride, name=name)
        return BasicBlock(self.features, stride, projection=True, relu_after=True, name=name)


class ResNet(StagedNetwork):
    """The ImageNet network of He et al. 2016: basic blocks up to a depth of 34, bottlenecks above."""

    depth: int = 18

    @property
    def bottleneck(self) -> bool:
        """Returns whether the blocks are bottlenecks."""
        return self.depth >= 50

    @property
    def strides(self) -> tuple[int, ...]:
        """Returns the stride of the first block of each stage."""
        return (1, 2, 2, 2)

    def layers(self) -> Sequence[nn.Module]:
        stages = [
            Stage(width, stride, num_blocks, self.bottleneck, name=f"stage{i + 1}")
            for i, (width, stride, num_blocks) in enumerate(zip(WIDTHS, self.strides, self.stage_blocks))
        ]
        return [Stem(name="stem"), *stages, Pool(name="pool"), Head(self.num_classes, name="head")]

    @property
    def architecture(self) -> str:
        return f"resnet{self.depth}"

    @property
    def family(self) -> str:
        return "resnet"

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        return NUM_BLOCKS[self.depth]

    @property
    def taps(self) -> tuple[Tap, ...]:
        extent = Extent().after(7, 2).after(3, 2)
        taps = [Tap("stem", "stem", *extent)]
        for i, (stride, num_blocks) in enumerate(zip(self.strides, self.stage_blocks)):
            for block in range(num_blocks):
                extent = extent.after(3, stride if block == 0 else 1)
                if not self.bottleneck:
                    extent = extent.after(3)
            taps.append(Tap(f"stage{i + 1}", f"stage{i + 1}/block{num_blocks}", *extent))
        return tuple(taps)

    @property
    def preprocessing(self) -> Preprocessing:
        return IMAGENET


def create(depth: int, num_classes: int) -> ResNet:
    """Returns the network of this depth.

    Raises:
      ValueError: the paper has no network of this depth.
    """
    if depth not in NUM_BLOCKS:
        raise ValueError(f"the depth is {depth}; it must be one of {', '.join(map(str, NUM_BLOCKS))}")
    return ResNet(num_classes=num_classes, depth=depth)


def _torchvision(name: str, digits: str, resize_px: int | None = None) -> Published:
    """Returns the facts about weights of torchvision, of which the first digits of the sha256 are published."""
    origin = "torchvision, BSD-3-Clause"
    return Published(f"{name}-{digits}.pth", name, 0, digits, "imagenet", IMAGENET, origin, resize_px=resize_px)


PUBLISHED = (
    _torchvision("resnet18", "f37072fd"),
    _torchvision("resnet34", "b627a593"),
    _torchvision("resnet50", "11ad3fa6", resize_px=232),
    _torchvision("resnet50", "0676ba61"),
    _torchvision("resnet101", "cd907fc2", resize_px=232),
    _torchvision("resnet101", "63fe2227"),
    _torchvision("resnet152", "f82ba261", resize_px=232),
    _torchvision("resnet152", "394f9c45"),
)

register_family(
    Family(
        r"resnet(\d+)",
        tuple(f"resnet{depth}" for depth in NUM_BLOCKS),
        "He et al. 2016, table 1, for ImageNet, in the layout of torchvision (v1.5)",
        create,
        PUBLISHED,
    )
)
