"""The Keras naming of all networks: `stage1_block1_conv1/kernel`, with the variables of Keras.

Keras has no such networks, so the names are those of jaxft, in the form that Keras allows for layers.
"""

import re

import numpy as np

from jaxft.models import Network
from jaxft.weights.namings.ports import Port

STATISTICS = {"mean": "moving_mean", "var": "moving_variance"}


def keras(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with a row per leaf."""
    rows = []
    for leaf, shape in model.structure.shapes.items():
        layer, _, variable = leaf.partition("/")[2].rpartition("/")
        name = layer.replace("/", "_")
        if leaf.startswith("batch_stats/"):
            variable = STATISTICS.get(variable, variable)
            rows.append(Port(f"counters/{re.escape(layer)}/num_batches_tracked", f"{name}/num_batches_tracked"))
        elif f"params/{layer}/scale" in model.structure.shapes:
            variable = {"scale": "gamma", "bias": "beta"}.get(variable, variable)
        is_depthwise = variable == "kernel" and len(shape) == 4 and shape[2] == 1
        convert = _swap_channels if is_depthwise else np.asarray
        rows.append(Port(re.escape(leaf), f"{name}/{variable}", convert, convert))
    return tuple(rows)


def _swap_channels(kernel: np.ndarray) -> np.ndarray:
    """Returns a depthwise kernel [height, width, 1, channels] as [height, width, channels, 1], or the reverse."""
    return kernel.swapaxes(2, 3)
