"""Names of the new units of a grown network (`jaxft.models.growth`), beside those of the network around which it is."""

from collections.abc import Callable
from typing import Any

from jaxft.models.growth import DEEPER, WIDER, Grown
from jaxft.weights.namings.ports import Port, port_conv, port_dense


def grown_table(model: Grown, table: Callable[[Any], tuple[Port, ...]]) -> tuple[Port, ...]:
    """Returns the rows of a grown network, of the `table` of its family."""
    ours = DEEPER if model.kind == "deeper" else model.last + WIDER
    new = (
        port_conv(f"params/{ours}/conv/kernel", "grown.conv.weight"),
        Port(f"params/{ours}/conv/bias", "grown.conv.bias"),
        Port(f"params/{ours}/gain", "grown.gain"),
    )
    rows = table(model.base)
    if model.flattened_channels is not None:  # which are more than the base's
        head = f"params/{model.head}/kernel"
        rows = tuple(
            port_dense(head, row.foreign, model.flattened_channels) if row.leaf == head else row for row in rows
        )
    return (*new, *rows)
