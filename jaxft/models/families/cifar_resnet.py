"""Residual networks for small images: the CIFAR networks of He et al., and a variant with projections in every stage.

`cifar_resnet{6n+2}`: He, Zhang, Ren & Sun 2016, "Deep residual learning", section 4.2, with option A shortcuts (every
second pixel, channels padded with zeros), as in github.com/akamaster/pytorch_resnet_cifar10.

`resnetsmall{6n+2}`: the variant of github.com/karanchahal/distiller. The stem has 64 channels, and shortcuts are
projections wherever the shape changes (also in the first block). Only the last addition of each stage is followed by a
ReLU. The pool before the head averages windows of 4x4 instead of the whole map.
"""

import dataclasses
import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.models.layers import BatchNorm, Chain, Head, Pool, branch, conv
from jaxft.models.network import (
    IMAGENET,
    Extent,
    Family,
    Preprocessing,
    Published,
    Tap,
)
from jaxft.models.registry import register_family
from jaxft.models.staged import MOST_LAYERS, StagedNetwork

WIDTHS = (16, 32, 64)
IMAGENET_32 = dataclasses.replace(IMAGENET, size_px=32)
CIFAR10 = Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = Preprocessing(32, (0.507, 0.487, 0.441), (0.267, 0.256, 0.276))


class Stem(nn.Module):
    """A 3x3 convolution, batch norm and ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(self.features, 3, name="conv")(x)
        return nn.relu(BatchNorm(name="bn")(x, train))


class Downsample(nn.Module):
    """A shortcut that changes the shape: a 1x1 convolution and batch norm."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(self.features, 1, self.stride, name="conv")(x)
        return BatchNorm(name="bn")(x, train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: a projection, or zero padding (option A)."""

    features: int
    stride: int
    projection: bool
    relu_after: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = conv(self.features, 3, self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, train))
        y = conv(self.features, 3, name="conv2")(y)
        y = BatchNorm(name="bn2")(y, train)
        if x.shape[-1] != self.features or self.stride != 1:
            if self.projection:
                x = Downsample(self.features, self.stride, name="downsample")(x, train)
            else:
                padding = (self.features - x.shape[-1]) // 2
                x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (padding, padding)))
        y = branch(self, y) + x
        return nn.relu(y) if self.relu_after else y


class Stage(Chain):
    """Blocks of one width; if `relu_every`, a ReLU follows each addition, otherwise only the last one."""

    features: int
    stride: int
    num_blocks: int
    projection: bool
    relu_every: bool

    def layers(self) -> Sequence[nn.Module]:
        return [
            BasicBlock(
                self.features,
                self.stride if i == 0 else 1,
                self.projection,
                relu_after=self.relu_every or i == self.num_blocks - 1,
                name=f"block{i + 1}",
            )
            for i in range(self.num_blocks)
        ]


def three_stage_taps(num_blocks: int) -> tuple[Tap, ...]:
    """Returns the taps of a network with a stem and three stages of `num_blocks` blocks.

    Each block has two 3x3 convolutions. The last two stages start with a stride of 2.
    """
    extent = Extent().after(3)
    taps = [Tap("stem", "stem", *extent)]
    for stage in (1, 2, 3):
        for block in range(num_blocks):
            extent = extent.after(3, 2 if block == 0 and stage > 1 else 1).after(3)
        taps.append(Tap(f"stage{stage}", f"stage{stage}/block{num_blocks}", *extent))
    return tuple(taps)


class CifarResNet(StagedNetwork):
    """The CIFAR network of He et al. 2016 or, if `small`, the variant with projections; depth = 6n + 2."""

    depth: int = 20
    small: bool = False

    @property
    def num_blocks(self) -> int:
        """Returns the number of blocks per stage."""
        return (self.depth - 2) // 6

    def layers(self) -> Sequence[nn.Module]:
        stages = [
            Stage(width, 1 if i == 0 else 2, self.num_blocks, self.small, not self.small, name=f"stage{i + 1}")
            for i, width in enumerate(WIDTHS)
        ]
        pool = Pool(4 if self.small else None, name="pool")
        return [Stem(64 if self.small else 16, name="stem"), *stages, pool, Head(self.num_classes, name="head")]

    @property
    def architecture(self) -> str:
        return f"{'resnetsmall' if self.small else 'cifar_resnet'}{self.depth}"

    @property
    def family(self) -> str:
        return "cifar_resnet"

    @property
    def flattened_channels(self) -> int | None:
        return WIDTHS[-1] if self.small else None

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        return (self.num_blocks,) * 3

    @property
    def taps(self) -> tuple[Tap, ...]:
        return three_stage_taps(self.num_blocks)

    @property
    def preprocessing(self) -> Preprocessing:
        return CIFAR10 if self.small else IMAGENET_32


def create(depth: int, num_classes: int, small: bool) -> CifarResNet:
    """Returns the network of this depth.

    Raises:
      ValueError: the depth is not 6n + 2, or too large.
    """
    if not 8 <= depth <= MOST_LAYERS or (depth - 2) % 6:
        raise ValueError(f"the depth is {depth}; it must be 6n + 2: 8, 14, 20, 26, 32, ..., at most {MOST_LAYERS:,}")
    return CifarResNet(num_classes=num_classes, depth=depth, small=small)


_AKAMASTER = "github.com/akamaster/pytorch_resnet_cifar10, BSD-2-Clause; converted from the .th state dict"
DISTILLER = "github.com/karanchahal/distiller, no license stated; converted from the model state dict"

register_family(
    Family(
        r"cifar_resnet(\d+)",
        tuple(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
        "He et al. 2016, section 4.2, with parameter-free shortcuts; any depth 6n+2",
        functools.partial(create, small=False),
        (
            Published("cifar_resnet20.cifar10.safetensors", "cifar_resnet20", 1_092_520, "02926273efb1deadb6dc654c7087baea932ef2026d9f854680d6858146d85838", "cifar10", IMAGENET_32, _AKAMASTER),  # noqa: E501
            Published("cifar_resnet32.cifar10.safetensors", "cifar_resnet32", 1_878_968, "897ca9a2e3e0f83d51ba9f0b65434c9242c2d4c896ded18d40f5bab4254875da", "cifar10", IMAGENET_32, _AKAMASTER),  # noqa: E501
            Published("cifar_resnet56.cifar10.safetensors", "cifar_resnet56", 3_451_984, "cf29b05e3acebb9dc28868ebd84a604ff452971bb6770f22beaff48708079aee", "cifar10", IMAGENET_32, _AKAMASTER),  # noqa: E501
        ),
    )
)  # fmt: skip
register_family(
    Family(
        r"resnetsmall(\d+)",
        tuple(f"resnetsmall{depth}" for depth in (8, 14, 20, 26, 32)),
        "variant with projection shortcuts, and a ReLU only after the last addition of a stage; any depth 6n+2",
        functools.partial(create, small=True),
        (
            Published("resnetsmall8.cifar10.safetensors", "resnetsmall8", 365_864, "f4586bacb60c66220d1569cb9f4d79a1a1d07eef9fb7424f0441cc374e095f44", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("resnetsmall8.cifar10-distilled.safetensors", "resnetsmall8", 365_864, "5cec3728548536ed970fb10b6114b567f962d1f1621f715f0dd282d5713e0eb7", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("resnetsmall8.cifar100.safetensors", "resnetsmall8", 458_384, "9af289fa6ad163c45a311242fd4be0c8a52a162299abb93e60f6a8868f7c8836", "cifar100", CIFAR100, DISTILLER),  # noqa: E501
            Published("resnetsmall14.cifar10.safetensors", "resnetsmall14", 759_632, "cfd1420fc6af12429c999f93c7496470c5354ddcbf3f9ff331d2773de775ecbd", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("resnetsmall14.cifar100.safetensors", "resnetsmall14", 852_152, "2f81a8ae6f5e1ba897e707230f86699052e5fd58aeb48048ca5022c9f286a804", "cifar100", CIFAR100, DISTILLER),  # noqa: E501
            Published("resnetsmall20.cifar10.safetensors", "resnetsmall20", 1_153_416, "37d4da80172829ff0ed66cae3398ce26376048e1f0c5a6650abf9c88d4c620f7", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("resnetsmall20.cifar100.safetensors", "resnetsmall20", 1_245_936, "f53f0e466abeca03748c255102646123029f9a67777d60b62158355b8a16a5f8", "cifar100", CIFAR100, DISTILLER),  # noqa: E501
            Published("resnetsmall32.cifar10.safetensors", "resnetsmall32", 1_941_064, "89a1c56ba5c766e1c812d8a44547b4a44faf33c94a43c3bc6cfbc5b46aa20e96", "cifar10", CIFAR10, DISTILLER),  # noqa: E501
            Published("resnetsmall32.cifar100.safetensors", "resnetsmall32", 2_033_584, "e6b902876b53035bd89697f2eea89f57455cd546c05f2925b5abcd31126e8026", "cifar100", CIFAR100, DISTILLER),  # noqa: E501
        ),
    )
)  # fmt: skip
