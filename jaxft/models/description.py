"""What a network is made of: its units with their costs, and the weights that are published for it."""

from dataclasses import dataclass

from jaxft.models.class_names import CLASS_NAMES
from jaxft.models.cost import BlockCost, block_costs
from jaxft.models.network import Network, Published
from jaxft.models.registry import create_model, published

SMALL_PX = 64  # networks for images up to this size are usually trained on CIFAR-10, others on ImageNet


@dataclass(frozen=True)
class Description:
    """What a network is made of, with a head for the classes of `dataset`, on images of its usual size."""

    model: Network
    dataset: str
    blocks: tuple[BlockCost, ...]

    @property
    def num_params(self) -> int:
        """Returns the number of parameters; batch norm's running statistics are none."""
        return sum(block.num_params for block in self.blocks)

    @property
    def num_macs(self) -> int:
        """Returns the multiply-accumulates of convolutions and dense layers for one image."""
        return sum(block.num_macs for block in self.blocks)

    @property
    def published(self) -> tuple[Published, ...]:
        """Returns which published weight files are known."""
        return tuple(file for file in published() if file.model == self.model.architecture)


def describe_model(name: str) -> Description:
    """Returns what the network called `name` is made of, without computing anything.

    Raises a `UserError` for a name that no family has.
    """
    size_px = create_model(name, num_classes=2).preprocessing.size_px
    dataset = "cifar10" if size_px <= SMALL_PX else "imagenet"
    model = create_model(name, num_classes=len(CLASS_NAMES[dataset]))
    return Description(model, dataset, block_costs(model, size_px))
