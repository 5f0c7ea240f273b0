"""Sources of images, what is drawn of them, augmentation and batches."""

from jaxft.data.readers.image_sets import ImageSet, load_images
from jaxft.data.sampling.drawing import Drawn, draw, read_manifest, write_manifest
from jaxft.data.sampling.splits import Split, draw_split

__all__ = [
    "Drawn",
    "ImageSet",
    "Split",
    "draw",
    "draw_split",
    "load_images",
    "read_manifest",
    "write_manifest",
]
