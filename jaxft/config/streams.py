"""The section `streams`: seeds of the random streams."""

from dataclasses import dataclass

from jaxft.config.fields import MAX_SEED, setting


@dataclass(frozen=True)
class Streams:
    """Seeds of the random streams. If a seed is None, the stream uses the seed of the trial."""

    source: int | None = setting(0, "seed of pretraining; if None, the seed of the trial", at_least=0, at_most=MAX_SEED)
    split: int | None = setting(
        None,
        "seed of the split into training, validation and test images; if None, the seed of the trial",
        at_least=0,
        at_most=MAX_SEED,
    )
    init: int | None = setting(
        None,
        "seed of random initial weights: the head, or the whole network; if None, the seed of the trial",
        at_least=0,
        at_most=MAX_SEED,
    )
    order: int | None = setting(
        None, "seed of the order of training images; if None, the seed of the trial", at_least=0, at_most=MAX_SEED
    )
    augment: int | None = setting(
        None, "seed of the augmentation; if None, the seed of the trial", at_least=0, at_most=MAX_SEED
    )
    fold: int | None = setting(
        0,
        "fold of val_fraction that is the validation set; if None, the seed of the trial, so that seeds with a fixed "
        "streams.split form a cross-validation",
        at_least=0,
        at_most=MAX_SEED,
    )
