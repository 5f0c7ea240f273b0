"""Detection of invalid values in weights: NaN, infinity, and invalid variances."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import some_of

MOST_SHOWN = 3  # damaged leaves named in an error
OFF_MEAN = 1e-4  # largest running mean of a channel that is always zero; up to 4e-6 in EfficientNet-Lite0


def refuse_damaged(flat: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Checks the variables `flat` of the weight file `path` for invalid values (`damaged_values`).

    Args:
      flat: arrays of any shape by leaf name, with the collection, such as `params/head/kernel`.
      path: the file, for the message.

    Raises:
      UserError: there are invalid values; the message names the first leaves.
    """
    damaged = damaged_values(flat)
    if damaged:
        shown = some_of([f"{damage} in {name}" for name, damage in damaged.items()], MOST_SHOWN)
        raise UserError(
            f"the weight file {str(path)!r} has {shown}; download it or train it again "
            "(for analysis, load_weights(..., check_values=False) loads it unchanged)."
        )


def damaged_values(flat: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the kind of damage of each damaged leaf: NaN, infinity, a negative variance or a variance of zero.

    Channels that are always zero have a mean and a variance of about zero; the published EfficientNet-Lite0 has some.
    So a variance of zero is damage only if the mean is not close to zero, or if all means of the layer are exactly zero
    (an untrained layer).

    Args:
      flat: arrays of any shape by leaf name, with the collection, such as `batch_stats/stem/bn/var`.
    """
    damaged = {}
    for name, leaf in flat.items():
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            damaged[name] = "NaN" if np.isnan(values).any() else "infinity"
        elif name.startswith("batch_stats/") and name.endswith("/var"):
            mean = np.asarray(flat.get(f"{name.removesuffix('var')}mean", np.zeros(values.shape)))
            is_off = (np.abs(mean) < OFF_MEAN) & bool(mean.any())
            if (values < 0).any():
                damaged[name] = "a negative variance"
            elif ((values == 0) & ~is_off).any():
                damaged[name] = "a variance of zero"
    return damaged
