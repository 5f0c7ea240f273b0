"""A network with its weights, its preprocessing and its class names, from a weight file."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import PreprocessingConfig, from_dict
from jaxft.core.errors import UserError

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxft.models import Network, Preprocessing
    from jaxft.weights import Manifest

# Usual test protocol of ImageNet networks: input size -> shorter side after resizing, before the center crop.
IMAGENET_RESIZE_PX = {224: 256, 227: 256}

COUNTERS = "counters"  # batch counters of batch norms; only an export to PyTorch needs them


def load(
    path: str | os.PathLike[str],
    model: str | None = None,
    check_values: bool = True,
    state_dict: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> "LoadedNetwork":
    """Returns the network of a weight file, with its weights, preprocessing and class names.

    Args:
      path: a weight file, or `package:NAME` for the file in an installed package.
      model: the name of the network. If None, the file or its name determines the network.
      check_values: whether to refuse NaN, infinity, and negative or wrongly zero variances.
      state_dict: the weights of a file with several networks, as in `jaxft.load_weights`.
      preprocessing: values that replace the preprocessing of the file, by the name of a field of the config section
        `source.preprocessing`: `mean` and `std` of each channel, in units of `range`; `size_px`; `range`, '0..1',
        '0..255' or '-1..1'; `channel_order`, 'rgb' or 'bgr'.
      class_names: the class names, in the order of the outputs. If empty, the names in the file.

    Raises:
      UserError: the file is missing, damaged, or for a network other than `model`, its network is unknown, or
        `preprocessing` or `class_names` does not fit the file.

    Example:
      >>> network = jaxft.load("resnetsmall14.cifar10.safetensors")
      >>> probabilities = network.predict(images)  # images: [n, h, w, 3] uint8
      >>> [network.class_names[i] for i in probabilities.argmax(1)]
    """
    import jax

    from jaxft.weights import ReadOptions, read_network

    given = from_dict(PreprocessingConfig, preprocessing or {}, "preprocessing").given()
    options = ReadOptions(state_dict, given, tuple(class_names))
    network, variables, manifest = read_network(os.fspath(path), model, check_values, options)
    on_device = {name: jax.device_put(variables[name]) for name in variables if name != COUNTERS}
    return LoadedNetwork(network, variables | on_device, manifest)


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network with its weights, and the manifest of the weight file.

    Attributes:
      model: the network, for `model.apply(variables, x)` on preprocessed images.
      variables: 'params' and, if the network has them, 'batch_stats' and 'counters'.
      manifest: class names, preprocessing and origin.
    """

    model: "Network"
    variables: dict[str, Any]
    manifest: "Manifest"

    @property
    def preprocessing(self) -> "Preprocessing":
        """Returns the preprocessing of these weights. `model.preprocessing`, the default, can differ from it."""
        return self.manifest.preprocessing

    @property
    def arrays(self) -> dict[str, Any]:
        """Returns the variables without batch counters: parameters and batch-norm statistics."""
        return {name: tree for name, tree in self.variables.items() if name != COUNTERS}

    @property
    def has_class_names(self) -> bool:
        """Returns whether the manifest has one name per class."""
        return len(self.manifest.class_names) == self.model.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the class names. If the file does not have one name per class, returns '0', '1', ..."""
        return self.manifest.class_names if self.has_class_names else tuple(map(str, range(self.model.num_classes)))

    @property
    def wordnet_ids(self) -> tuple[str, ...]:
        """Returns the WordNet ids of the classes; empty if they are not known."""
        return self.manifest.wordnet_ids

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Returns one sentence for each choice in reading the file, and for each fact that it lacks."""
        assumptions = list(self.manifest.notes)
        if not self.has_class_names:
            count = f"{len(self.manifest.class_names):,} class names" if self.manifest.class_names else "no class names"
            assumptions.append(
                f"{self.manifest.file} has {count} for {self.model.num_classes:,} classes, so classes are numbered and "
                "no accuracy is computed; name the classes with --labels (in Python, class_names=)."
            )
        return tuple(assumptions)

    @property
    def crop(self) -> tuple[int, slice]:
        """Returns the size in pixels that images are resized to, and the slice of the center crop along each side."""
        from jaxft.models.class_names import CLASS_NAMES

        size_px = self.preprocessing.size_px
        is_imagenet = self.class_names == CLASS_NAMES["imagenet"]
        usual_px = IMAGENET_RESIZE_PX.get(size_px, size_px) if is_imagenet else size_px
        resize_px = self.manifest.resize_px or usual_px
        margin = (resize_px - size_px) // 2
        return resize_px, slice(margin, margin + size_px)

    def predict(self, images: "np.ndarray", batch_size: int = 64) -> "np.ndarray":
        """Returns the probabilities of the classes, [n, num_classes] float32.

        Images of the network's input size are used unchanged. Other images are resized by their shorter side and
        center-cropped (`crop`).

        Args:
          images: [n, height, width, 3] uint8, RGB, not preprocessed.
          batch_size: number of images per forward pass.

        Raises:
          UserError: the network has no classifier, or the images have another shape or dtype.
          FloatingPointError: the logits are not finite.
        """
        import numpy as np

        self.check_classifier()
        if not len(images):
            return np.zeros((0, self.model.num_classes), np.float32)
        probabilities = self._batched(make_probabilities(self.model, self.preprocessing), images, batch_size)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError(f"the logits of {self.manifest.file} are not finite for these images")
        return probabilities

    def features(
        self, images: "np.ndarray", block: str | None = None, pooling: str = "average", batch_size: int = 64
    ) -> "np.ndarray":
        """Returns features of the images, [n, d] float32: the input of the head, or the pooled output of a block.

        Args:
          images: [n, height, width, 3] uint8, RGB, not preprocessed; resized as in `predict`.
          block: the block whose output is pooled. If None, the input of the head, which is not pooled if the head
            flattens it.
          pooling: name of a pooling in `jaxft.ops.pooling.POOLINGS`, such as 'average' or 'max'.
          batch_size: number of images per forward pass.

        Raises:
          UserError: there is no such pooling, or the images have another shape or dtype.
          ValueError: there is no block `block`.

        Example:
          >>> network = jaxft.load("resnetsmall14.cifar10.safetensors")
          >>> network.features(images, block="stage2").shape  # stage2 has 32 channels
          (1000, 32)
        """
        from jaxft.ops.pooling import POOLINGS

        if block is not None or self.model.flattened_channels is None:
            POOLINGS[pooling]  # raises an error for an unknown pooling
        compiled = make_features(self.model, self.preprocessing, block, pooling)
        return self._batched(compiled, images, batch_size)

    def apply(self, images: "jax.Array", after: str | None = None, stop: str | None = None) -> "jax.Array":
        """Returns the logits [n, num_classes], or the outputs of block `stop`. JAX can differentiate and trace it.

        `apply(apply(images, stop=block), after=block)` equals `apply(images)` for every block.

        Args:
          images: [n, height, width, 3] uint8, RGB, not preprocessed; with `after`, the output of block `after`.
          after: the block whose output is given; the blocks above it run. If None, all blocks up to `stop` run.
          stop: the last block that runs; if None, the head.

        Raises:
          ValueError: there is no block `after` or `stop`, or `stop` comes before `after`.
        """
        x = images if after else self.preprocessing.apply(images)
        return self.model.apply(self.arrays, x, after=after, stop=stop)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network to a new weight file, with its class names, preprocessing and origin.

        Raises:
          UserError: the folder does not exist, or jaxft cannot write a format with this suffix.
        """
        from jaxft.weights import save_weights

        save_weights(Path(path), self.model, self.variables, self.manifest)

    @property
    def has_classifier(self) -> bool:
        """Returns whether the weight file has a classifier."""
        return self.model.head in self.variables["params"]

    def check_classifier(self) -> None:
        """Raises a `UserError` if the weight file has no classifier."""
        if not self.has_classifier:
            raise UserError(
                f"{self.manifest.file} has no classifier; fine-tune it on your classes first (`jaxft finetune`)."
            )

    def _batched(self, compiled: "Callable[..., jax.Array]", images: "np.ndarray", batch_size: int) -> "np.ndarray":
        """Returns the outputs of `compiled(variables, batch)` for all images, of the network's input size."""
        import numpy as np

        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be 1 or more.")
        images = self._fitted(np.asarray(images))
        size = min(batch_size, len(images))
        outputs = []
        for first in range(0, len(images), batch_size):
            batch = images[first : first + size]
            padding = np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)  # one shape, so one program
            padded = np.concatenate([batch, padding]) if len(padding) else batch
            outputs.append(np.asarray(compiled(self.arrays, padded))[: len(batch)])
        return np.concatenate(outputs)

    def _fitted(self, images: "np.ndarray") -> "np.ndarray":
        """Returns `images` at the network's input size, [n, size_px, size_px, 3] uint8."""
        import numpy as np

        from jaxft.data.readers.pictures import to_pixels

        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images are {images.dtype} of shape {list(images.shape)}; give uint8 images [n, height, width, 3] in "
                "RGB, which are not preprocessed."
            )
        size_px = self.preprocessing.size_px
        if images.shape[1:3] == (size_px, size_px) or not len(images):
            return images
        resize_px, center = self.crop
        return np.stack([to_pixels(image, resize_px)[center, center] for image in images])


@functools.cache
def make_probabilities(model: "Network", preprocessing: "Preprocessing") -> "Callable[..., jax.Array]":
    """Returns the compiled `probabilities(variables, images [n, h, w, 3] uint8) -> [n, num_classes]`."""
    import jax

    def probabilities(variables: dict[str, Any], images: "jax.Array") -> "jax.Array":
        return jax.nn.softmax(model.apply(variables, preprocessing.apply(images)), axis=-1)

    return jax.jit(probabilities)


@functools.cache
def make_features(
    model: "Network", preprocessing: "Preprocessing", block: str | None, pooling: str
) -> "Callable[..., jax.Array]":
    """Returns the compiled `features(variables, images [n, h, w, 3] uint8) -> [n, d]`, as `LoadedNetwork.features`.

    Args:
      model: the network.
      preprocessing: the preprocessing of the images.
      block: the block whose output is pooled; if None, the block below the head.
      pooling: name of the pooling.
    """
    import jax

    from jaxft.features.feature_spec import FeatureSpec

    spec = FeatureSpec(block or model.feature_block, pooling)
    is_flattened = block is None and model.flattened_channels is not None

    def features(variables: dict[str, Any], images: "jax.Array") -> "jax.Array":
        output = model.apply(variables, preprocessing.apply(images), stop=spec.block)
        return output.reshape(len(output), -1) if is_flattened else spec.features({spec.block: output})

    return jax.jit(features)
