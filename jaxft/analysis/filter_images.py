"""Filters of the first convolution as images, before and after training."""

from typing import Any, NamedTuple

import numpy as np


class FilterImages(NamedTuple):
    """Filters as images [filters, height, width, channels] with values from 0 to 1; a weight of 0 is gray, 0.5.

    Attributes:
      before: the filters before training.
      after: the filters after training; each filter has the scale of `before`.
      difference: after - before, on one scale for all filters.
      weight_scales: [filters], the absolute weight that is 0 or 1 in `before` and `after`.
      difference_scale: the absolute difference that is 0 or 1 in `difference`.
    """

    before: np.ndarray
    after: np.ndarray
    difference: np.ndarray
    weight_scales: np.ndarray
    difference_scale: float


def filter_images(before: Any, after: Any) -> FilterImages:
    """Returns the filters of a kernel before and after training, and their difference, as images.

    Args:
      before: the kernel before training, [height, width, channels, filters], as in Flax and Haiku; for a kernel of
        PyTorch, `np.transpose(kernel, (2, 3, 1, 0))`.
      after: the kernel after training.

    Raises:
      ValueError: the shapes differ, do not have four axes, or a weight is not finite.

    Reference: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural networks",
    figure 3, for pictures of filters.
    """
    w0, w = (np.asarray(kernel, np.float32) for kernel in (before, after))
    if w0.ndim != 4 or w0.shape != w.shape or not (np.isfinite(w0).all() and np.isfinite(w).all()):
        raise ValueError(
            f"the kernels have the shapes {list(w0.shape)} and {list(w.shape)}; they must be equal, "
            "[height, width, channels, filters], with finite weights."
        )
    w0, w = np.moveaxis(w0, -1, 0), np.moveaxis(w, -1, 0)
    scales = np.maximum(np.abs(w0), np.abs(w)).max((1, 2, 3), initial=0)
    change_scale = np.abs(w - w0).max(initial=0)
    by_filter = scales.reshape(-1, 1, 1, 1)
    return FilterImages(_gray(w0, by_filter), _gray(w, by_filter), _gray(w - w0, change_scale), scales, change_scale)


def _gray(values: np.ndarray, scale: Any) -> np.ndarray:
    """Returns 0.5 + values / (2 scale)."""
    return 0.5 + values / (2 * np.where(scale > 0, scale, 1))
