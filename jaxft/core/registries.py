"""The registries whose entries a config can name, with the modules that register the built-in entries.

Plug-ins can register more entries (`jaxft.core.plugins`).
"""

from jaxft.core.registry import Registry

OPTIMIZERS: Registry = Registry("optimizer", ("jaxft.training.optimizers",))
SCHEDULES: Registry = Registry("schedule", ("jaxft.training.schedules",))
LOSSES: Registry = Registry("loss", ("jaxft.training.losses",))
REGULARIZERS: Registry = Registry("regularizer", ("jaxft.training.regularizers",))
AUGMENTATIONS: Registry = Registry("augmentation", ("jaxft.data.augmentation",))
DATA_FACTORS: Registry = Registry("data factor", ("jaxft.data.sampling.factors",))
CLASSIFIERS: Registry = Registry("classifier", ("jaxft.features.classifiers",))
POOLINGS: Registry = Registry("pooling", ("jaxft.ops.pooling",))
EXECUTORS: Registry = Registry("executor", ("jaxft.study.executors",))
ANALYSES: Registry = Registry(
    "analysis", tuple(f"jaxft.study.analyses.{name}" for name in ("built_in", "representation", "units"))
)
TRACKERS: Registry = Registry("tracker")
