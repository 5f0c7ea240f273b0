"""A part of an enlarged image, computed without its other pixels. Pixels equal those of Pillow's bilinear `resize`."""

import numpy as np

PRECISION_BITS = 22  # of the weights, as in Pillow's Resample.c


def enlarged_part(pixels: np.ndarray, full: tuple[int, int], corner: tuple[int, int], size: int) -> np.ndarray:
    """Returns a square of `pixels`, enlarged to `full`: [size, size, channels] uint8.

    Args:
      pixels: [height, width, channels] uint8.
      full: (height, width) of the enlarged image; at least those of `pixels`.
      corner: (top, left) of the square in the enlarged image.
      size: side of the square, in pixels.
    """
    rows, row_weights = _taps(pixels.shape[0], full[0], corner[0], size)
    columns, column_weights = _taps(pixels.shape[1], full[1], corner[1], size)
    used = pixels[rows.min() : rows.max() + 1]
    wide = _weighted_sum(used.swapaxes(0, 1), columns, column_weights).swapaxes(0, 1)  # Pillow begins with the columns
    return _weighted_sum(wide, rows - rows.min(), row_weights)


def _taps(length: int, full_length: int, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (indices [count, 3], integer weights [count, 3]) of the pixels that are averaged along an axis."""
    centers = (np.arange(begin, begin + count) + 0.5) * (length / full_length)
    first = np.maximum(np.trunc(centers - 0.5), 0).astype(np.int64)
    indices = first[:, None] + np.arange(3)
    last = np.minimum(np.trunc(centers + 1.5), length)
    weights = np.maximum(1 - np.abs(indices - centers[:, None] + 0.5), 0)
    weights[indices >= last[:, None]] = 0
    weights /= weights[:, :1] + weights[:, 1:2] + weights[:, 2:]
    return np.minimum(indices, length - 1), np.trunc(0.5 + weights * (1 << PRECISION_BITS)).astype(np.int32)


def _weighted_sum(pixels: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.full((len(indices), *pixels.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for tap in range(indices.shape[1]):
        total += pixels[indices[:, tap]].astype(np.int32) * weights[:, tap, None, None]
    return np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)
