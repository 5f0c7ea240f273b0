"""Names of the classes of well-known data sets, in the order of their labels."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Returns a dict from WordNet id to class name of ImageNet-1k, in the order of the labels (sorted ids).

    Parentheses distinguish two classes with the same word: 'crane (bird)', 'crane (machine)'.
    """
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


class _ClassNames(Mapping[str, tuple[str, ...]]):
    """Class names by data set; the names of ImageNet are read from a file on access."""

    def __init__(self) -> None:
        self._short = {"cifar10": tuple(_CIFAR10.split()), "cifar100": tuple(_CIFAR100.split())}

    def __getitem__(self, dataset: str) -> tuple[str, ...]:
        return tuple(imagenet_classes().values()) if dataset == "imagenet" else self._short[dataset]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._short, "imagenet"))

    def __len__(self) -> int:
        return len(self._short) + 1


CLASS_NAMES = _ClassNames()
