"""The analyses 'representation' and 'representation_of_seeds': similarity of activations at the taps of a network."""

from collections.abc import Iterator

from jaxft.analysis.similarity_matrices import MIN_BATCH, stream_similarity
from jaxft.core.registries import ANALYSES
from jaxft.study.analyses.analysis import Analysis, Row, TrainedTrial, Variables


def measure_representation(trial: TrainedTrial) -> Iterator[Row]:
    """Yields the linear CKA of each tap with the same tap of the initial network, on the validation images.

    'total' has the value of the last tap.
    """
    yield from _similarity(trial, trial.initial, trial, trial.final)


def measure_representation_of_seeds(first: TrainedTrial, second: TrainedTrial) -> Iterator[Row]:
    """Yields the linear CKA of each tap of two seeds, on the validation images of the first. 'total': the last tap."""
    yield from _similarity(first, first.final, second, second.final)


def _similarity(first: TrainedTrial, x: Variables, second: TrainedTrial, y: Variables) -> Iterator[Row]:
    batches = ((first.apply(x, images), second.apply(y, images)) for images, _ in first.validation_batches())
    taps = first.planned.model.taps
    values = stream_similarity(batches).cka.diagonal()
    for tap, value in zip(taps, values, strict=True):
        yield Row("block", tap.block, "cka", value)
    yield Row("total", "total", "cka_of_last_tap", values[-1])


ANALYSES.register(
    "representation",
    Analysis(measure_representation, min_images=MIN_BATCH),
    help="linear CKA of each tap before and after training, on validation images",
)
ANALYSES.register(
    "representation_of_seeds",
    Analysis(measure_representation_of_seeds, of_pairs=True, min_images=MIN_BATCH),
    help="linear CKA of each tap between each pair of seeds of a setting, on validation images",
)
