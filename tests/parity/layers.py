"""Inputs of the comparisons of single layers and optimizers with torch; results are in `layers.json`, in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).parent / "layers.json"
NUM_STEPS = 5
LEARNING_RATES = {"body/kernel": 0.02, "head/bias": 0.1}
# Fields of `jaxft.config.Training`, by name of the case; the optimizer is the first word of the name.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer.momentum": 0.9},
    "sgd, weight decay": {"optimizer.momentum": 0.9, "optimizer.weight_decay": 0.1},
    "sgd, nesterov, weight decay": {
        "optimizer.momentum": 0.8,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.01,
    },
    "adamw": {"optimizer.momentum": 0.9, "optimizer.beta2": 0.99, "optimizer.weight_decay": 0.1},
}


def draw_batch_norm() -> tuple[np.ndarray, np.ndarray]:
    """Returns the input and the regression target of a batch norm, each [4, 5, 6, 3]."""
    rng = np.random.default_rng(2)
    return rng.normal(3, 2, (4, 5, 6, 3)), rng.normal(size=(4, 5, 6, 3))


def draw_quadratic() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the parameters that an optimizer starts from, and the scales of the quadratic loss."""
    rng = np.random.default_rng(4)
    start = {"body/kernel": rng.normal(size=(3, 2)), "head/bias": rng.normal(size=2)}
    return start, {name: rng.uniform(0.5, 2, value.shape) for name, value in start.items()}


def read_reference() -> dict[str, Any]:
    """Returns torch's results: `batch_norm` (gradient, mean, var), and each optimizer's parameters after the steps."""

    def arrays(tree: dict[str, Any]) -> dict[str, Any]:
        return {key: arrays(x) if isinstance(x, dict) else np.array(x) for key, x in tree.items()}

    return arrays(json.loads(PATH.read_text(encoding="utf-8")))
