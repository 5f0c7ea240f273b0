"""Arrays and images of a trial for compiling and timing, whose values do not matter."""

from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.features.prefix import output_shape
from jaxft.study.chunk.lanes import Lane
from jaxft.study.planned import PlannedTrial
from jaxft.study.starts import held_units, make_lane, with_attention


def example_lane(planned: PlannedTrial) -> Lane:
    """Returns the arrays of a trial for timing: their values do not matter."""
    rng = np.random.Generator(np.random.PCG64(0))
    flat: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, shape in planned.shapes.items():
        collection, _, leaf = name.partition("/")
        values = rng.normal(0, 0.05, shape) if collection == "params" else np.ones(shape)
        flat[collection][leaf] = values.astype(np.float32)
    lane = make_lane(planned, flat["params"], flat["batch_stats"])
    shapes = {unit: output_shape(planned.model, unit, planned.size_px) for unit in held_units(planned)}
    return with_attention(lane, {unit: np.ones(shape[-1], np.float32) for unit, shape in shapes.items()})


def example_images(planned: PlannedTrial, execution: cfg.Execution) -> np.ndarray:
    """Returns images of a trial for timing: of a set that is streamed the first, which stands for all."""
    images = planned.images.images
    return images[:1] if images.nbytes > execution.device_data_bytes else images
