"""The registries that the config reads: names that a field may have, and sections that are built from entries.

Built-ins and plug-ins register themselves where they are defined (`jaxft.core.plugins`).
"""

from jaxft.core.registry import Registry

OPTIMIZERS: Registry = Registry("optimizer")
SCHEDULES: Registry = Registry("schedule")
LOSSES: Registry = Registry("loss")
REGULARIZERS: Registry = Registry("regularizer")
AUGMENTATIONS: Registry = Registry("augmentation")
DATA_FACTORS: Registry = Registry("data factor")
CLASSIFIERS: Registry = Registry("classifier")
POOLINGS: Registry = Registry("pooling")
EXECUTORS: Registry = Registry("executor")
