"""Selection of classes: at random, or the source classes that are nearest to the target classes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.analysis.wordnet import class_synsets, load_wordnet
from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.data.sampling.ranking import class_order


def choose_classes(
    spec: Images, class_names: Sequence[str], seed: int, where: str, nearness: Mapping[str, float] | None = None
) -> Images:
    """Returns `spec` with the names of `spec.num_classes` selected classes in `spec.classes`.

    A random selection takes the first classes in the order of the seed. 'nearest' takes the classes with the highest
    nearness, and 'farthest' those with the lowest; ties are broken by the order of the seed. So a smaller selection is
    a subset of a larger one.

    Args:
      spec: the images.
      class_names: the classes of the data.
      seed: seed of the random order.
      where: config field of `spec`, for error messages.
      nearness: nearness of each class to the target; required unless `spec.class_choice` is 'random'.

    Raises:
      UserError: the data have fewer classes, or `nearness` is missing.
    """
    if spec.num_classes is None:
        return spec
    if spec.num_classes > len(class_names):
        raise UserError(
            f"'{where}.num_classes' is {spec.num_classes}, but {spec.data!r} has only {len(class_names)} classes."
        )
    order = class_order(class_names, seed)
    if spec.class_choice != "random":
        if nearness is None:
            raise UserError(
                f"'{where}.class_choice' is {spec.class_choice!r}, which needs target classes; set it to 'random'."
            )
        order.sort(key=nearness.__getitem__, reverse=spec.class_choice == "nearest")  # stable, also if reversed
    selected = set(order[: spec.num_classes])
    return dataclasses.replace(
        spec,
        classes=tuple(name for name in class_names if name in selected),
        num_classes=None,
        class_choice="random",
    )


def name_nearness(
    class_names: Sequence[str],
    target_names: Sequence[str],
    by: str,
    table: str | None = None,
    target_table: str | None = None,
) -> dict[str, float]:
    """Returns the WordNet similarity, in (0, 1], of each class to the most similar target class.

    Args:
      class_names: the classes.
      target_names: the target classes.
      by: 'wup' (Wu and Palmer) or 'path'.
      table: CSV file with the synsets of `class_names`, as in `class_synsets`.
      target_table: CSV file with the synsets of `target_names`.
    """
    wordnet = load_wordnet()
    similarity = wordnet.wup if by == "wup" else wordnet.path
    synsets = class_synsets(class_names, table)
    targets = set(class_synsets(target_names, target_table).values())
    return {name: max(similarity(synset, target) for target in targets) for name, synset in synsets.items()}


def feature_nearness(class_names: Sequence[str], means: np.ndarray, target_means: np.ndarray) -> dict[str, float]:
    """Returns the negative Euclidean distance of the mean feature of each class to the nearest target class mean.

    Args:
      class_names: the classes.
      means: [classes, features], mean feature of each class.
      target_means: [target classes, features], mean feature of each target class.
    """
    distances = np.sqrt(np.square(means[:, None].astype(np.float64) - target_means[None]).sum(-1)).min(axis=1)
    return {name: -float(distance) for name, distance in zip(class_names, distances)}
