"""Transformations of pixels: gray images, and images with shuffled blocks."""

import numpy as np

from jaxft.data.batches import permutation
from jaxft.data.luma import luma


def gray(pixels: np.ndarray) -> np.ndarray:
    """Returns gray images [n, size, size, 3] uint8 with the luma of `pixels`, of the same shape, in all channels.

    The luma is that of ITU-R 601-2, rounded as in Pillow.
    """
    levels = np.empty_like(pixels)
    for row, image in enumerate(pixels):  # one image at a time, because int32 sums take four times the memory
        levels[row] = luma(image).astype(np.uint8)
    return levels


def shuffle_blocks(pixels: np.ndarray, block_px: int, seed: int) -> np.ndarray:
    """Returns images [n, size, size, 3] uint8 with shuffled blocks.

    Each image is cut into blocks of `block_px` x `block_px` pixels. All images have the same order, which is drawn from
    the seed.

    Args:
      pixels: [n, size, size, 3] uint8.
      block_px: side of a block in pixels, a divisor of `size`.
      seed: seed of the order.

    Reference: Neyshabur, Sedghi & Zhang 2020, "What is being transferred in transfer learning?", section 3.1.
    """
    n, size, _, channels = pixels.shape
    side = size // block_px
    order = permutation(f"shuffle:{seed}", side * side)
    blocks = pixels.reshape(n, side, block_px, side, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(n, side * side, block_px, block_px, channels)[:, order]
    blocks = blocks.reshape(n, side, side, block_px, block_px, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(blocks.reshape(pixels.shape))
