"""The section `streams`: seeds of the streams of random numbers."""

from dataclasses import dataclass

from jaxft.config.fields import MAX_SEED, setting


@dataclass(frozen=True)
class Streams:
    """Seed of each stream of random numbers; none: the trial's own seed. A pinned stream does not vary."""

    source: int | None = setting(0, "everything random in pretraining", at_least=0, at_most=MAX_SEED)
    split: int | None = setting(None, "which images are trained, selected and tested on", at_least=0, at_most=MAX_SEED)
    init: int | None = setting(None, "new weights: the head, or a whole random network", at_least=0, at_most=MAX_SEED)
    order: int | None = setting(None, "order of the training images", at_least=0, at_most=MAX_SEED)
    augment: int | None = setting(None, "random changes of the images", at_least=0, at_most=MAX_SEED)
    fold: int | None = setting(
        0,
        "which share of val_fraction is selected on: none, beside a pinned split, makes seeds a cross-validation",
        at_least=0,
        at_most=MAX_SEED,
    )
