"""Example arrays and images of a trial, with arbitrary values, for compiling and timing."""

from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.study.chunk.lanes import Lane
from jaxft.study.planned import PlannedTrial
from jaxft.study.trial_loader import make_lane, with_measured
from jaxft.training.regularizers.active import measured_shapes


def example_lane(planned: PlannedTrial) -> Lane:
    """Returns the arrays of a trial with arbitrary values."""
    rng = np.random.Generator(np.random.PCG64(0))
    flat: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, shape in planned.shapes.items():
        collection, _, leaf = name.partition("/")
        values = rng.normal(0, 0.05, shape) if collection == "params" else np.ones(shape)
        flat[collection][leaf] = values.astype(np.float32)
    lane = make_lane(planned, flat["params"], flat["batch_stats"])
    phases = [phase.regularizers for phase in planned.program.phases]
    shapes = measured_shapes(phases, planned.model, planned.size_px)
    return with_measured(
        lane,
        {
            name: {array_name: np.ones(shape, np.float32) for array_name, shape in array_shapes.items()}
            for name, array_shapes in shapes.items()
        },
    )


def example_images(planned: PlannedTrial, execution: cfg.Execution) -> np.ndarray:
    """Returns the images of a trial for timing: [n, h, w, 3] uint8, or [1, h, w, 3] if they would be streamed."""
    images = planned.images.images
    return images[:1] if images.nbytes > execution.device_data_bytes else images
