"""The section `training.augmentation`.

The file of each augmentation of single images declares its section.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by, sections_of
from jaxft.core.registries import AUGMENTATIONS


@dataclass(frozen=True)
class MixupConfig:
    """Mixup (Zhang et al. 2018)."""

    alpha: float = setting(
        0.0,
        "mixup: the weight of an image in a mixed pair is drawn from Beta(alpha, alpha); 0 turns it off",
        traced=True,
        at_least=0,
    )


@dataclass(frozen=True)
class CutMixConfig:
    """CutMix (Yun et al. 2019)."""

    alpha: float = setting(
        0.0,
        "CutMix: the fraction of an image outside the pasted rectangle is drawn from Beta(alpha, alpha); if mixup is "
        "also on, each batch uses one of the two at random; 0 turns it off",
        traced=True,
        at_least=0,
    )


@extended_by(AUGMENTATIONS)
@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of the training images."""

    mixup: MixupConfig = field(default_factory=MixupConfig)
    cutmix: CutMixConfig = field(default_factory=CutMixConfig)
    views: int = setting(
        0,
        "number of fixed views of each training image, the image itself and random augmentations of it, so that "
        "frozen layers run only once; 0 draws a new augmentation in every step",
        at_least=0,
        at_most=1000,
    )

    @property
    def varies(self) -> bool:
        """Returns whether an augmentation of single images is on; mixup and CutMix do not count."""
        sections = sections_of(self).items()
        return any(AUGMENTATIONS[name].value.is_active(options) for name, options in sections)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Returns the section of an augmentation."""
