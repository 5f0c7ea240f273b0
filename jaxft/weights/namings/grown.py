"""Tensor names of grown networks (`jaxft.models.growth`): those of the base network, and of its new units."""

from collections.abc import Callable
from typing import Any

from jaxft.models.growth import DEEPER, WIDER, Grown
from jaxft.weights.namings.ports import Port, port_conv, port_dense


def grown_table(model: Grown, table: Callable[[Any], tuple[Port, ...]]) -> tuple[Port, ...]:
    """Returns the port table of a grown network, from the `table` of its family."""
    layer = DEEPER if model.kind == "deeper" else model.last + WIDER
    new = (
        port_conv(f"params/{layer}/conv/kernel", "grown.conv.weight"),
        Port(f"params/{layer}/conv/bias", "grown.conv.bias"),
        Port(f"params/{layer}/gain", "grown.gain"),
    )
    rows = table(model.base)
    if model.flattened_channels is not None:  # a grown network has more flattened channels than its base
        head = f"params/{model.head}/kernel"
        rows = tuple(
            port_dense(head, row.tensor_name, model.flattened_channels) if row.leaf == head else row for row in rows
        )
    return (*new, *rows)
