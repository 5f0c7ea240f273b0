"""The candidates of `finetune`: their trainable layers, learning rates and epochs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxft.config import FROZEN
from jaxft.recipes.finetune.options import Train

if TYPE_CHECKING:
    from jaxft.models import Network

# The fields of `training` that all candidates share. `configs/finetune_recipe.py` compares alternatives.
RECIPE: dict[str, Any] = {
    "optimizer.name": "adamw",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "layers.decay": 0.9,
    "batch_norm.statistics": "frozen",
    "augmentation.crop.scale_min": 0.5,
    "augmentation.flip.enabled": True,
    "selection.weights": "last",
    # SGD does not reach the minimum of the linear probe at every learning rate.
    "linear_probe.optimizer": "lbfgs",
    "linear_probe.epochs": 60.0,
}
HEAD_DECAYS = (0.003, 0.01, 0.03)  # L2 penalties of the candidates that train only a logistic-regression head
PROBE_DECAY = 0.01  # L2 penalty of the linear probe that the other candidates start from
RATES = (0.0003, 0.001)  # learning rates after the probe; higher rates lose the accuracy of the probe
NUM_STEPS = 100  # approximate number of steps after the probe
MIN_EPOCHS, MAX_EPOCHS = 6, 40
NUM_VIEWS = 4000  # approximate number of views of all training images together
MIN_VIEWS, MAX_VIEWS = 2, 8
BATCH_SIZE = 32

Candidates = Mapping[str, Mapping[str, Any]]


def make_candidates(model: "Network", num_train: int, train: Train) -> dict[str, dict[str, Any]]:
    """Returns the candidates as a dict: name -> fields of `training`.

    The fewer training images, the more epochs and the more views of each image.

    Args:
      model: the pretrained network.
      num_train: the number of training images.
      train: the largest part of the network that candidates train: 'head', 'top' (the head and the last stage) or
        'all'. 'auto' is 'top' on a CPU, and 'all' on other devices.
    """
    import jax

    if train == "auto":
        train = "top" if jax.default_backend() == "cpu" else "all"
    batch_size = min(BATCH_SIZE, num_train)
    common = {
        "augmentation.views": min(max(round(NUM_VIEWS / num_train), MIN_VIEWS), MAX_VIEWS),
        "batches.size": batch_size,
    }
    fine_tuning = {
        "schedule.epochs": float(min(max(round(NUM_STEPS * batch_size / num_train), MIN_EPOCHS), MAX_EPOCHS)),
        "linear_probe.weight_decay": PROBE_DECAY,
    }
    below = "|".join(below_last_stage(model))
    rules_by_depth: dict[str, tuple[tuple[str, str], ...]] = {}
    if train in ("top", "all"):
        rules_by_depth["top"] = ((f"({below})/.*", FROZEN),)
    if train == "all":
        rules_by_depth["all"] = ()
    candidates: dict[str, dict[str, Any]] = {}
    for depth, rules in rules_by_depth.items():
        for rate in RATES:
            candidates[f"{depth} at {rate:g}"] = {
                **common,
                "layers.rates": rules,
                "optimizer.learning_rate": rate,
                **fine_tuning,
            }
    # The heads come last, because the other candidates compute and cache the features that the heads need.
    for decay in HEAD_DECAYS:
        candidates[f"head with decay {decay:g}"] = {
            **common,
            "layers.backbone_learning_rate": FROZEN,
            "schedule.epochs": 0.0,
            "linear_probe.weight_decay": decay,
        }
    return candidates


def below_last_stage(model: "Network") -> list[str]:
    """Returns the names of the blocks below the last stage.

    The last stage begins above the last tap with a smaller stride than the top tap. If all taps have the same stride,
    it begins above the first block.
    """
    strides = [tap.stride_px for tap in model.taps]
    first = strides.index(strides[-1])
    last_below = model.taps[first - 1].block if first else model.blocks[0]
    return list(model.blocks[: model.blocks.index(last_below) + 1])
