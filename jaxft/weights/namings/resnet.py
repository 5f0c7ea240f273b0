"""Tensor names of ResNets for ImageNet in torchvision, which timm shares if the stem is unchanged."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port
from jaxft.weights.namings.residual import residual_table


def torchvision(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `layer1.0.conv1.weight`."""
    return residual_table("downsample", "fc")


register_naming("resnet", "torchvision", torchvision)
register_naming("resnet", "timm", torchvision)
