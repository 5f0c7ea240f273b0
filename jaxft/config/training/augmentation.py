"""The section `training.augmentation`: random changes of the training images.

Each augmentation of single images declares its section in its own file.
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
        "mixup: images are mixed in pairs, with shares from Beta(alpha, alpha); 0 turns it off",
        traced=True,
        at_least=0,
    )


@dataclass(frozen=True)
class CutMixConfig:
    """CutMix (Yun et al. 2019)."""

    alpha: float = setting(
        0.0,
        "CutMix: rectangles are pasted between images, with shares from Beta(alpha, alpha); beside mixup each batch "
        "draws one of the two; 0 turns it off",
        traced=True,
        at_least=0,
    )


@extended_by(AUGMENTATIONS)
@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of the training images."""

    mixup: MixupConfig = field(default_factory=MixupConfig)
    cutmix: CutMixConfig = field(default_factory=CutMixConfig)
    views: int = setting(
        0,
        "fixed number of versions of each training image, itself and random ones, so that frozen layers are computed "
        "once; 0 draws a new version at every step",
        at_least=0,
    )

    @property
    def varies(self) -> bool:
        """Returns whether single images are changed at random (mixing aside)."""
        sections = sections_of(self).items()
        return any(AUGMENTATIONS[name].value.is_active(options) for name, options in sections)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Returns the section of an augmentation."""
