"""Rows of port tables that residual networks in PyTorch share."""

from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense


def residual_table(shortcut: str, head: str, flattened_channels: int | None = None) -> tuple[Port, ...]:
    """Returns the port table of a network with a stem, stages of blocks, and a dense head.

    Args:
      shortcut: name of a block's shortcut, a sequence of a convolution and a batch norm: 'downsample'.
      head: name of the dense layer: 'fc'.
      flattened_channels: channels of the map that the head flattens, if it does (`port_dense`).
    """
    block, foreign = r"stage(?P<stage>\d+)/block(?P<block>\d+)", "layer{stage}.{block-1}"
    return (
        port_conv("params/stem/conv/kernel", "conv1.weight"),
        *port_batch_norm("stem/bn", "bn1"),
        port_conv(rf"params/{block}/conv(?P<i>\d)/kernel", foreign + ".conv{i}.weight"),
        *port_batch_norm(rf"{block}/bn(?P<i>\d)", foreign + ".bn{i}"),
        port_conv(rf"params/{block}/downsample/conv/kernel", f"{foreign}.{shortcut}.0.weight"),
        *port_batch_norm(rf"{block}/downsample/bn", f"{foreign}.{shortcut}.1"),
        port_dense("params/head/kernel", f"{head}.weight", flattened_channels),
        Port("params/head/bias", f"{head}.bias"),
    )
