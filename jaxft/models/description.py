"""Description of a network: the costs of its blocks, and its published weights."""

from dataclasses import dataclass

from jaxft.models.class_names import CLASS_NAMES
from jaxft.models.cost import BlockCost, block_costs
from jaxft.models.network import Network, Published
from jaxft.models.registry import create_model, published

SMALL_PX = 64  # networks for images of up to 64 px are usually trained on CIFAR-10, others on ImageNet


@dataclass(frozen=True)
class Description:
    """A network with a head for the classes of `dataset`, and the costs of its blocks at the default image size."""

    model: Network
    dataset: str
    blocks: tuple[BlockCost, ...]

    @property
    def num_params(self) -> int:
        """Returns the number of parameters, without batch-norm statistics."""
        return sum(block.num_params for block in self.blocks)

    @property
    def num_macs(self) -> int:
        """Returns the number of multiply-accumulates in convolutions and dense layers for one image."""
        return sum(block.num_macs for block in self.blocks)

    @property
    def published(self) -> tuple[Published, ...]:
        """Returns the published weight files of the network."""
        return tuple(file for file in published() if file.model == self.model.architecture)


def describe_model(name: str) -> Description:
    """Returns the description of the network `name`, without running the network.

    Raises:
      UserError: no family has a network of this name.
    """
    size_px = create_model(name, num_classes=2).preprocessing.size_px
    dataset = "cifar10" if size_px <= SMALL_PX else "imagenet"
    model = create_model(name, num_classes=len(CLASS_NAMES[dataset]))
    return Description(model, dataset, block_costs(model, size_px))
