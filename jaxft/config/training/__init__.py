"""The section `training`: how a network is trained. Each of its sections has a file."""

from jaxft.config.training.augmentation import AugmentationConfig
from jaxft.config.training.batch_norm import BatchNormConfig
from jaxft.config.training.batches import BatchesConfig
from jaxft.config.training.classifier import ClassifierConfig
from jaxft.config.training.initialization import InitializationConfig
from jaxft.config.training.layers import LayersConfig
from jaxft.config.training.linear_probe import LinearProbeConfig
from jaxft.config.training.loss import LossConfig
from jaxft.config.training.optimizer import OptimizerConfig
from jaxft.config.training.regularization import RegularizationConfig
from jaxft.config.training.schedule import ScheduleConfig
from jaxft.config.training.selection import SelectionConfig
from jaxft.config.training.training import Training

__all__ = [
    "AugmentationConfig",
    "BatchNormConfig",
    "BatchesConfig",
    "ClassifierConfig",
    "InitializationConfig",
    "LayersConfig",
    "LinearProbeConfig",
    "LossConfig",
    "OptimizerConfig",
    "RegularizationConfig",
    "ScheduleConfig",
    "SelectionConfig",
    "Training",
]
