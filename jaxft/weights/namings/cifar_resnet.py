"""Tensor names of residual networks for small images, shared by github.com/akamaster and github.com/karanchahal."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port
from jaxft.weights.namings.residual import residual_table


def table(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `layer1.0.shortcut.0.weight`."""
    return residual_table("shortcut", "linear", model.flattened_channels)


register_naming("cifar_resnet", "akamaster", table)
