"""Image sets: readers, data factors and splits, augmentation, batches, streaming and data checks.

Imports `core`, `config`, `ops`, `analysis`, `models` and `weights`. Extensions are readers (`readers`), data factors
(`sampling`) and augmentations (`augmentation`).
"""

from jaxft.data.readers.image_set import ImageSet
from jaxft.data.readers.image_sets import load_images
from jaxft.data.sampling.drawing import draw
from jaxft.data.sampling.manifests import read_manifest, write_manifest
from jaxft.data.sampling.sampled_images import SampledImages
from jaxft.data.sampling.splits import Split, draw_split

__all__ = [
    "ImageSet",
    "SampledImages",
    "Split",
    "draw",
    "draw_split",
    "load_images",
    "read_manifest",
    "write_manifest",
]
