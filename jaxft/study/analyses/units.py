"""The analysis 'units': statistics of single channels at the taps of a network, before and after training."""

from collections.abc import Iterator

import numpy as np

from jaxft.analysis.unit_changes import mean_of_known, unit_changes
from jaxft.core.registries import ANALYSES
from jaxft.study.analyses.analysis import Analysis, Row, TrainedTrial


def measure_units(trial: TrainedTrial) -> Iterator[Row]:
    """Yields the mean over the units of each tap of the measures of `jaxft.analysis.unit_changes.UnitChanges`.

    The images are those of validation. Units for which a measure does not exist, such as the selectivity of a dead
    unit, are left out of its mean. 'total' has the means over the units of all taps.
    """
    blocks = {tap.name: tap.block for tap in trial.planned.model.taps}
    batches = (
        (trial.apply(trial.initial, images), trial.apply(trial.final, images), labels)
        for images, labels in trial.validation_batches()
    )
    of_taps = {tap: changes.measures for tap, changes in unit_changes(batches, trial.planned.model.num_classes).items()}
    for tap, measures in of_taps.items():
        for measure, values in measures.items():
            yield Row("block", blocks[tap], measure, mean_of_known(values))
    for measure in next(iter(of_taps.values())):
        together = np.concatenate([measures[measure] for measures in of_taps.values()])
        yield Row("total", "total", measure, mean_of_known(together))


ANALYSES.register(
    "units",
    Analysis(measure_units, min_images=1),
    help="selectivity, sparsity and dead units at each tap before and after training, and change of their top images",
)
