"""Values that no network can compute with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import some_of

MOST_SHOWN = 3  # damaged leaves in one message
OFF_MEAN = 1e-4  # largest running mean of a channel that is always off; EfficientNet-Lite0's go up to 4e-6


def refuse_damaged(flat: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Checks that a network can compute with `flat`, its variables by name with their collection.

    Raises a `UserError` that names the file and the leaves that hold what `damaged_values` finds.
    """
    damaged = damaged_values(flat)
    if damaged:
        shown = some_of([f"{what} in {name}" for name, what in damaged.items()], MOST_SHOWN)
        raise UserError(
            f"the weight file {str(path)!r} cannot be used, as it has {shown}; fetch or train it again "
            "(for analysis, load_weights(..., check_values=False) loads it as it is)."
        )


def damaged_values(flat: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns, by the name of the leaf, what of a network's variables no network can compute with.

    'NaN', 'infinity', 'a negative variance' or 'a variance of zero'. A channel that is always off has a mean and a
    variance of zero, as have some of EfficientNet-Lite0's published ones: a variance of zero is damage where the mean
    is not almost zero, or where no mean of the layer has moved from zero, so that it was never trained.
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
