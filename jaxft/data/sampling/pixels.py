"""Images without color, and with their blocks shuffled."""

import numpy as np

from jaxft.data.batches import permutation
from jaxft.data.luma import luma


def gray(pixels: np.ndarray) -> np.ndarray:
    """Returns images [n, size, size, 3] with their luma (ITU-R 601-2) in all three channels, rounded as Pillow does."""
    levels = np.empty_like(pixels)
    for row, image in enumerate(pixels):  # one at a time: sums take four times the memory
        levels[row] = luma(image).astype(np.uint8)
    return levels


def shuffle_blocks(pixels: np.ndarray, block_px: int, seed: int) -> np.ndarray:
    """Returns images [n, size, size, 3] with their blocks in the order that belongs to the seed.

    Each image is cut into blocks of `block_px`, which all images have in one other order (Neyshabur, Sedghi & Zhang
    2020, section 3.1).
    """
    n, size, _, channels = pixels.shape
    side = size // block_px
    order = permutation(f"shuffle:{seed}", side * side)
    blocks = pixels.reshape(n, side, block_px, side, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(n, side * side, block_px, block_px, channels)[:, order]
    blocks = blocks.reshape(n, side, side, block_px, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(blocks.reshape(pixels.shape))
