"""The frozen prefix of a phase: the layers whose activations are computed once."""

from collections.abc import Mapping

from jaxft.data.augmentation.augment import Augmentations
from jaxft.features.prefix import Prefix
from jaxft.study.chunk.lanes import Lane, SharedImages
from jaxft.training.phase import Phase
from jaxft.training.state import Flat


def prefix_of(
    phase: Phase,
    block: str,
    variables: Mapping[str, Flat],
    images: SharedImages,
    lane: Lane,
    through: Prefix | None = None,
) -> Prefix:
    """Returns the units up to `block` before what a phase sees of the images where it does not vary, views included."""
    # Parts of larger images vary, but for the image itself, of which the center is looked at.
    crop_px = phase.preprocessing.size_px if images.pixels.shape[1] != phase.preprocessing.size_px else None
    augmentations = phase.augmentations if phase.views else Augmentations.of({"crop.size_px": crop_px})
    return Prefix(
        phase.model,
        phase.preprocessing,
        block,
        variables,
        images.pixels,
        images.fingerprint,
        augmentations,
        lane.augment_key,
        through,
    )
