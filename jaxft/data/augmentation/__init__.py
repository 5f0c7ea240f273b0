"""Random changes of images on the device, pure in (key, images), and the crops of evaluation.

Imports the rows above `data`. An augmentation grows as a file: a function, `AUGMENTATIONS.register(...)`, and its
module in the list below. They are applied in the order in which they are registered, which is timm's: crop, flip,
RandAugment, color jitter, erasing. Pixels are uint8 between them, as between Pillow's operations.
"""

# ruff: noqa: F401, I001
import jaxft.data.augmentation.geometry
import jaxft.data.augmentation.randaugment
import jaxft.data.augmentation.color_jitter
import jaxft.data.augmentation.erasing
