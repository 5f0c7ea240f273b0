"""The candidates of `finetune`: what each trains, at which learning rate, for how many epochs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxft.config import FROZEN
from jaxft.recipes.finetune.options import Train

if TYPE_CHECKING:
    from jaxft.models import Network

# The fields of `training` that all candidates share, chosen by configs/finetune_recipe.py.
RECIPE: dict[str, Any] = {
    "optimizer.name": "adamw",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "layers.decay": 0.9,
    "batch_norm.statistics": "frozen",
    "augmentation.crop.scale_min": 0.5,
    "augmentation.flip.enabled": True,
    "selection.weights": "last",
    # With SGD the linear probe would end short of the minimum, depending on the learning rate.
    "linear_probe.optimizer": "lbfgs",
    "linear_probe.epochs": 60.0,
}
HEAD_DECAYS = (0.003, 0.01, 0.03)  # L2 penalties of the candidates that only fit a logistic regression
PROBE_DECAY = 0.01  # L2 penalty of the linear probe that the other candidates start from
RATES = (0.0003, 0.001)  # learning rates after the probe; higher ones lose what the fitted head starts with
NUM_STEPS = 100  # about, of each candidate that trains by steps
MIN_EPOCHS, MAX_EPOCHS = 6, 40
NUM_VIEWS = 4000  # about, of all training images together
MIN_VIEWS, MAX_VIEWS = 2, 8
BATCH_SIZE = 32

Candidates = Mapping[str, Mapping[str, Any]]


def make_candidates(model: "Network", num_train: int, train: Train) -> dict[str, dict[str, Any]]:
    """Returns the candidates for `num_train` training images: name -> fields of `training`.

    Fewer images are trained on for more epochs, with more views of each.

    Args:
      model: the pretrained network.
      num_train: how many images are trained on.
      train: the most that a candidate trains; 'auto' is 'top' on a CPU, and 'all' elsewhere.
    """
    import jax

    if train == "auto":
        train = "top" if jax.default_backend() == "cpu" else "all"
    batch_size = min(BATCH_SIZE, num_train)
    common = {
        "augmentation.views": min(max(round(NUM_VIEWS / num_train), MIN_VIEWS), MAX_VIEWS),
        "batches.size": batch_size,
    }
    by_steps = {
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
                **by_steps,
            }
    # The heads come last, because the others compute and cache the features that the heads need.
    for decay in HEAD_DECAYS:
        candidates[f"head with decay {decay:g}"] = {
            **common,
            "layers.backbone_learning_rate": FROZEN,
            "schedule.epochs": 0.0,
            "linear_probe.weight_decay": decay,
        }
    return candidates


def below_last_stage(model: "Network") -> list[str]:
    """Returns the units below the last stage: those up to the last tap with a smaller stride than the last tap."""
    strides = [tap.stride_px for tap in model.taps]
    first = strides.index(strides[-1])
    last_below = model.taps[first - 1].block if first else model.blocks[0]
    return list(model.blocks[: model.blocks.index(last_below) + 1])
