"""Augmentation on the device, as pure functions of (key, images), and the crops of evaluation.

Imports the rows above `data`. To add an augmentation, write a file with a function and `AUGMENTATIONS.register(...)`,
and add its module to the list below. Augmentations are applied in the order of registration, the order of timm: crop,
flip, RandAugment, color jitter, erasing. Pixels are uint8 between them, as between operations of Pillow.
"""

# ruff: noqa: F401, I001
import jaxft.data.augmentation.geometry
import jaxft.data.augmentation.randaugment
import jaxft.data.augmentation.color_jitter
import jaxft.data.augmentation.erasing
