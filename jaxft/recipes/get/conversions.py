"""The conversions by name: `convert(downloads, target, metadata)` writes the file `target`.

`downloads` are the downloaded files in the order of their addresses, and `metadata` the texts for a weight file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxft.recipes.get import images, weights

Convert = Callable[[Sequence[Path], Path, Mapping[str, str]], None]

CONVERSIONS: dict[str, Convert] = {
    "torch": weights.torch,
    "deep_compression": weights.deep_compression,
    "keras": weights.keras,
    "caltech": images.caltech,
    "pacs": images.pacs,
    "intel": images.intel,
    "tiny_imagenet": images.tiny_imagenet,
    "cifar10": images.cifar10,
    "fashion_mnist": images.fashion_mnist,
}
