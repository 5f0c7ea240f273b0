"""The port table that residual networks from PyTorch share."""

from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense


def residual_table(shortcut: str, head: str, flattened_channels: int | None = None) -> tuple[Port, ...]:
    """Returns the port table of a network with a stem, stages of blocks, and a dense head.

    Args:
      shortcut: tensor name of the shortcut of a block, a convolution and a batch norm; such as 'downsample'.
      head: tensor name of the dense layer, such as 'fc'.
      flattened_channels: see `port_dense`.
    """
    block, prefix = r"stage(?P<stage>\d+)/block(?P<block>\d+)", "layer{stage}.{block-1}"
    return (
        port_conv("params/stem/conv/kernel", "conv1.weight"),
        *port_batch_norm("stem/bn", "bn1"),
        port_conv(rf"params/{block}/conv(?P<i>\d)/kernel", prefix + ".conv{i}.weight"),
        *port_batch_norm(rf"{block}/bn(?P<i>\d)", prefix + ".bn{i}"),
        port_conv(rf"params/{block}/downsample/conv/kernel", f"{prefix}.{shortcut}.0.weight"),
        *port_batch_norm(rf"{block}/downsample/bn", f"{prefix}.{shortcut}.1"),
        port_dense("params/head/kernel", f"{head}.weight", flattened_channels),
        Port("params/head/bias", f"{head}.bias"),
    )
