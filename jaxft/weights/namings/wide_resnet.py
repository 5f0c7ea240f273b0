"""Tensor names of wide residual networks in github.com/karanchahal/distiller."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense


def distiller(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `layer1.layer.0.convShortcut.weight`."""
    block, prefix = r"stage(?P<stage>\d+)/block(?P<block>\d+)", "layer{stage}.layer.{block-1}"
    return (
        port_conv("params/stem/conv/kernel", "conv1.weight"),
        port_conv(rf"params/{block}/conv(?P<i>\d)/kernel", prefix + ".conv{i}.weight"),
        *port_batch_norm(rf"{block}/bn(?P<i>\d)", prefix + ".bn{i}"),
        port_conv(rf"params/{block}/shortcut/kernel", prefix + ".convShortcut.weight"),
        *port_batch_norm("norm/bn", "bn1"),
        port_dense("params/head/kernel", "linear.weight"),
        Port("params/head/bias", "linear.bias"),
    )


register_naming("wide_resnet", "distiller", distiller)
