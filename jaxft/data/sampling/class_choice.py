"""Which classes are used: drawn, or those of a source nearest to the target's."""

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
    """Returns `spec` with the classes that are chosen by name, `spec.num_classes` of them.

    Random ones are the first in the order of the seed. The nearest are those of the greatest `nearness`, the farthest
    those of the least; equals come in the order of the seed. So the fewer lie within the more.

    Raises a `UserError` where there are fewer classes; `where` names the config's field.
    """
    if spec.num_classes is None:
        return spec
    if spec.num_classes > len(class_names):
        raise UserError(f"'{where}.num_classes' is {spec.num_classes}, but {spec.data!r} has {len(class_names)}.")
    order = class_order(class_names, seed)
    if spec.class_choice != "random":
        if nearness is None:
            raise UserError(f"'{where}.class_choice' is {spec.class_choice!r}, but there is no target to compare with.")
        order.sort(key=nearness.__getitem__, reverse=spec.class_choice == "nearest")  # stable, reversed too
    chosen = set(order[: spec.num_classes])
    return dataclasses.replace(
        spec,
        classes=tuple(name for name in class_names if name in chosen),
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
    """Returns how near each class is to the nearest of the target's by WordNet: `by` 'wup' or 'path', in (0, 1].

    The tables correct what names mean (`class_synsets`).
    """
    wordnet = load_wordnet()
    similarity = wordnet.wup if by == "wup" else wordnet.path
    synsets = class_synsets(class_names, table)
    others = set(class_synsets(target_names, target_table).values())
    return {name: max(similarity(synset, other) for other in others) for name, synset in synsets.items()}


def feature_nearness(class_names: Sequence[str], means: np.ndarray, target_means: np.ndarray) -> dict[str, float]:
    """Returns minus the Euclidean distance of each class's mean feature from the nearest of the target's.

    Args:
      means: [classes, features]; `target_means`: [target classes, features].
    """
    distances = np.sqrt(np.square(means[:, None].astype(np.float64) - target_means[None]).sum(-1)).min(axis=1)
    return {name: -float(distance) for name, distance in zip(class_names, distances)}
