"""The section `training.augmentation`: random changes of the training images."""

from dataclasses import dataclass

from jaxft.config.fields import setting


@dataclass(frozen=True)
class CropConfig:
    """Random crops in training, and the center in evaluation."""

    padding_px: int = setting(0, "zero pixels added on each side of an image before a random crop", at_least=0)
    scale_min: float = setting(
        1.0, "smallest fraction of the area that a random resized crop keeps; 1 turns it off", above=0, at_most=1
    )
    size_px: int | None = setting(
        None,
        "side of the network's input where images are larger: a random crop in training, the center in evaluation; if "
        "None, the whole image",
        at_least=1,
    )


@dataclass(frozen=True)
class FlipConfig:
    """Random horizontal flips."""

    enabled: bool = setting(False, "whether half of the images are flipped horizontally at random")


@dataclass(frozen=True)
class RandAugmentConfig:
    """RandAugment (Cubuk et al. 2020)."""

    num_operations: int = setting(
        0, "RandAugment: number of random operations on each image; 0 turns it off", at_least=0
    )
    magnitude: float = setting(9.0, "RandAugment: magnitude of the operations, of 30", at_least=0, at_most=30)


@dataclass(frozen=True)
class ColorJitterConfig:
    """Random changes of brightness, contrast, saturation and hue."""

    brightness: float = setting(0.0, "maximum brightness jitter, as a fraction", at_least=0)
    contrast: float = setting(0.0, "maximum contrast jitter, as a fraction", at_least=0)
    saturation: float = setting(0.0, "maximum saturation jitter, as a fraction", at_least=0)
    hue: float = setting(0.0, "maximum hue jitter, as a fraction of the color circle", at_least=0, at_most=0.5)


@dataclass(frozen=True)
class ErasingConfig:
    """Random erasing (Zhong et al. 2020)."""

    probability: float = setting(0.0, "probability of erasing a random rectangle of an image", at_least=0, at_most=1)


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


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of the training images."""

    crop: CropConfig = CropConfig()
    flip: FlipConfig = FlipConfig()
    randaugment: RandAugmentConfig = RandAugmentConfig()
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    erasing: ErasingConfig = ErasingConfig()
    mixup: MixupConfig = MixupConfig()
    cutmix: CutMixConfig = CutMixConfig()
    views: int = setting(
        0,
        "fixed number of versions of each training image, itself and random ones, so that frozen layers are computed "
        "once; 0 draws a new version at every step",
        at_least=0,
    )

    @property
    def varies(self) -> bool:
        """Returns whether single images are changed at random (mixing aside)."""
        jitter = self.color_jitter
        return bool(
            self.flip.enabled
            or self.crop.padding_px
            or self.crop.scale_min < 1
            or self.crop.size_px
            or self.randaugment.num_operations
            or jitter.brightness
            or jitter.contrast
            or jitter.saturation
            or jitter.hue
            or self.erasing.probability
        )
