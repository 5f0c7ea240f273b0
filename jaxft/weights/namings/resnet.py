"""Names of ResNets for ImageNet: torchvision's, which are timm's too for networks without changes of the stem."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port
from jaxft.weights.namings.residual import residual_table


def torchvision(model: Network) -> tuple[Port, ...]:
    """Returns the port table: `layer1.0.conv1.weight`."""
    return residual_table("downsample", "fc")


register_naming("resnet", "torchvision", torchvision)
register_naming("resnet", "timm", torchvision)
