"""Changes of the units (channels) at several taps, for a stream of images."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.analysis.top_images import TopImages, label_entropy, top_images, top_jaccard
from jaxft.analysis.unit_statistics import PairSums, Responses, UnitSums, pair_sums, responses, unit_sums

NUM_TOP = 9


class UnitChanges(NamedTuple):
    """The c units of a tap before and after training, for the same images. `plus` adds further images.

    Attributes:
      before: sums over the images before training.
      after: sums over the images after training.
      pairs: sums of the products of both.
      top_before: the images with the largest activation of each unit before training.
      top_after: the images with the largest activation of each unit after training.
    """

    before: UnitSums
    after: UnitSums
    pairs: PairSums
    top_before: TopImages
    top_after: TopImages

    def plus(self, other: "UnitChanges") -> "UnitChanges":
        """Returns the changes over the images of both."""
        return UnitChanges(
            before=self.before.plus(other.before),
            after=self.after.plus(other.after),
            pairs=self.pairs.plus(other.pairs),
            top_before=self.top_before.plus(other.top_before),
            top_after=self.top_after.plus(other.top_after),
        )

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """Returns {measure: [c]}; a value is nan for a unit for which the measure does not exist.

        'selectivity', 'sparsity', 'dead_units' (1 for a dead unit) and 'label_entropy' (of the top images, in bits) are
        those after training; '..._before' are those before training. 'top_jaccard' is the Jaccard index of the top
        images, and 'correlation' that of the responses over images.
        """
        values: dict[str, np.ndarray] = {}
        for suffix, sums, top in (("", self.after, self.top_after), ("_before", self.before, self.top_before)):
            values[f"selectivity{suffix}"] = sums.selectivity
            values[f"sparsity{suffix}"] = sums.sparsity
            values[f"label_entropy{suffix}"] = label_entropy(top)
            values[f"dead_units{suffix}"] = sums.is_dead.astype(np.float64)
        return values | {
            "top_jaccard": top_jaccard(self.top_before, self.top_after),
            "correlation": self.pairs.correlation,
        }


def unit_changes(
    batches: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Any]], num_classes: int, num_top: int = NUM_TOP
) -> dict[str, UnitChanges]:
    """Returns {tap: UnitChanges} of a stream of batches; the memory does not grow with the number of images.

    Activations below 0 count as 0, because not every tap follows a ReLU. The response of a unit to an image is the mean
    over the positions, and for the top images the maximum.

    Args:
      batches: (before, after, labels) of each batch: two dicts {tap: [n, height, width, c] or [n, c]} of the same
        images, and their labels [n], negative without a label.
      num_classes: the number of classes of the labels.
      num_top: the number of top images of a unit.

    Raises:
      ValueError: there are no batches, the activations are not finite, or the shapes are wrong.
    """
    totals: dict[str, UnitChanges] = {}
    first_image = 0
    for before, after, labels in batches:
        for tap in after:
            pair = responses(jax.nn.relu(before[tap])), responses(jax.nn.relu(after[tap]))
            of_batch = _of_batch(*pair, labels, num_classes, num_top, first_image)
            totals[tap] = totals[tap].plus(of_batch) if tap in totals else of_batch
        first_image += len(labels)
    if not totals:
        raise ValueError("there are no batches of activations.")
    return totals


def _of_batch(
    before: Responses, after: Responses, labels: Any, num_classes: int, num_top: int, first_image: int
) -> UnitChanges:
    return UnitChanges(
        before=unit_sums(before, labels, num_classes, "mean"),
        after=unit_sums(after, labels, num_classes, "mean"),
        pairs=pair_sums(before.mean, after.mean),
        top_before=top_images(before, labels, num_top, first_image),
        top_after=top_images(after, labels, num_top, first_image),
    )


def mean_of_known(values: np.ndarray) -> float:
    """Returns the mean of the values [c] that are not nan; nan if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
