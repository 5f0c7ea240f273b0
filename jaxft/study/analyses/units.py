"""The analysis 'units': statistics of single channels at the taps of a network, before and after training."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxft.analysis.top_images import TopImages, label_entropy, top_images, top_jaccard
from jaxft.analysis.unit_statistics import Responses, UnitSums, responses, unit_correlations, unit_sums
from jaxft.core.registries import ANALYSES
from jaxft.study.analyses.analysis import Analysis, Row, TrainedTrial, Variables


class UnitsOfTap(NamedTuple):
    """What the units of a tap do for all validation images.

    Attributes:
      responses: of each batch of images.
      sums: sums over the images.
      top: the nine images with the largest activation of each unit.
    """

    responses: list[Responses]
    sums: UnitSums
    top: TopImages


def measure_units(trial: TrainedTrial) -> Iterator[Row]:
    """Yields means over the units of each tap, with the final weights and, as '..._before', with the initial weights.

    The measures are selectivity, sparsity, label entropy of the top images (in bits), and the fraction of dead units;
    and between before and after, the Jaccard index of the top images and the correlation of the responses over images.
    An activation below 0 counts as 0, because not every tap follows a ReLU. Units for which a measure does not exist,
    such as the selectivity of a dead unit, are left out of its mean. 'total' has the means over all units.
    """
    before, after = (units_of_taps(trial, variables) for variables in (trial.initial, trial.final))
    of_taps = {tap: _measures(before[tap], after[tap]) for tap in after}
    for tap, measures in of_taps.items():
        for measure, values in measures.items():
            yield Row("block", tap, measure, _mean(values))
    for measure in next(iter(of_taps.values())):
        together = np.concatenate([measures[measure] for measures in of_taps.values()])
        yield Row("total", "total", measure, _mean(together))


def units_of_taps(trial: TrainedTrial, variables: Variables) -> dict[str, UnitsOfTap]:
    """Returns {block: UnitsOfTap} of the validation images, from one forward pass over them."""
    blocks = {tap.name: tap.block for tap in trial.planned.model.taps}
    batches: dict[str, list[tuple[Responses, UnitSums, TopImages]]] = {block: [] for block in blocks.values()}
    first = 0
    for images, labels in trial.validation_batches():
        for tap, activations in trial.apply(variables, images).items():
            of_batch = responses(jax.nn.relu(activations))
            sums = unit_sums(of_batch, labels, trial.planned.model.num_classes, "mean")
            batches[blocks[tap]].append((of_batch, sums, top_images(of_batch, labels, first_image=first)))
        first += len(labels)
    return {block: _together(of_tap) for block, of_tap in batches.items()}


def _together(batches: Sequence[tuple[Responses, UnitSums, TopImages]]) -> UnitsOfTap:
    all_responses, sums, top = zip(*batches, strict=True)
    return UnitsOfTap(list(all_responses), functools.reduce(UnitSums.plus, sums), functools.reduce(TopImages.plus, top))


def _measures(before: UnitsOfTap, after: UnitsOfTap) -> dict[str, np.ndarray]:
    """Returns {measure: [units]} of a tap."""
    measures: dict[str, np.ndarray] = {}
    for suffix, units in (("", after), ("_before", before)):
        measures |= {
            f"selectivity{suffix}": units.sums.selectivity,
            f"sparsity{suffix}": units.sums.sparsity,
            f"label_entropy{suffix}": label_entropy(units.top),
            f"dead_units{suffix}": units.sums.is_dead.astype(np.float64),
        }
    pairs = ((a.mean, b.mean) for a, b in zip(before.responses, after.responses))
    return measures | {"top_jaccard": top_jaccard(before.top, after.top), "correlation": unit_correlations(pairs)}


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not nan; nan if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


ANALYSES.register(
    "units",
    Analysis(measure_units, evaluates=True),
    help="selectivity, sparsity and dead units at each tap before and after training, and change of their top images",
)
