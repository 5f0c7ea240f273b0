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

_COUNTS = """
10 CIFAR-10
10 MNIST
10 Fashion-MNIST
10 SVHN
10 STL-10
100 CIFAR-100
101 Caltech-101
101 Food-101
102 Flowers-102
200 CUB-200
200 Tiny ImageNet
256 Caltech-256
365 Places365
397 SUN397
1000 ImageNet
21843 ImageNet-21k
"""
NUM_CLASSES = {name: int(number) for number, name in (line.split(" ", 1) for line in _COUNTS.split("\n") if line)}


def dataset_with(num_classes: int | None) -> str | None:
    """Returns the only well-known data set with this number of classes; None if there are several or none."""
    names = [name for name, number in NUM_CLASSES.items() if number == num_classes]
    return names[0] if len(names) == 1 else None
