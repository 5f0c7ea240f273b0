"""Accuracies as log-odds."""

from collections.abc import Sequence

import numpy as np

from jaxft.core.errors import UserError


def log_odds(
    accuracy: float | Sequence[float] | np.ndarray, num_images: float | np.ndarray | None = None
) -> np.ndarray:
    """Returns the natural log-odds of accuracies, with the shape of `accuracy`. Missing values (nan) stay nan.

    log(a / (1 - a)) if `num_images` is None. Otherwise log((k + 1/2) / (n - k + 1/2)), where k = a n of n images are
    correct. The 1/2 keeps the log-odds of 0 and 1 finite, and removes most of the bias for small n.

    A difference of log-odds is the logarithm of an odds ratio: +0.1 means about 10 % higher odds of a correct answer,
    both at 50 % and at 99 % accuracy. So effects near 100 % can be compared with effects at lower accuracies.

    Args:
      accuracy: accuracies in [0, 1], of any shape.
      num_images: number of evaluated images; broadcasts against `accuracy`. If None, there is no correction, and the
        log-odds of 0 and 1 are infinite.

    Raises:
      UserError: an accuracy is outside [0, 1], or a number of images is not positive.

    Reference: Kornblith, Shlens & Le 2019, "Do better ImageNet models transfer better?", who compare accuracies as
    log-odds; the correction is that of Haldane 1956 and Anscombe 1956.
    """
    share = np.asarray(accuracy, dtype=np.float64)
    if np.any((share < 0) | (share > 1)):
        raise UserError(f"log-odds need accuracies in [0, 1], not {np.nanmin(share):g} to {np.nanmax(share):g}.")
    if num_images is None:
        with np.errstate(divide="ignore"):
            return np.log(share) - np.log1p(-share)
    count = np.asarray(num_images, dtype=np.float64)
    if not np.all(count > 0):
        raise UserError("log-odds need a positive number of images.")
    return np.log(share * count + 0.5) - np.log((1 - share) * count + 0.5)
