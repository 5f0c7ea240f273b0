"""The frozen prefix of a phase: the blocks whose activations are computed once."""

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
    trial: Lane,
    through: Prefix | None = None,
) -> Prefix:
    """Returns the frozen prefix up to a block, on images that do not vary or on fixed random views.

    Args:
      phase: the phase, with the network and the preprocessing.
      block: the last block of the prefix.
      variables: flat `params` and `batch_stats`.
      images: the images.
      trial: the arrays of a trial; its augmentation key determines the views.
      through: a shorter prefix whose outputs this one starts from; if None, it starts from the images.
    """
    # Without views, images that are larger than the network input are cropped at the center.
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
        trial.augment_key,
        through,
    )
