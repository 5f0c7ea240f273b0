"""Sources of images, splits, augmentation and batches."""

from jaxft.data.sources import ImageSet, load_images
from jaxft.data.splits import Split, draw_split

__all__ = ["ImageSet", "Split", "draw_split", "load_images"]
