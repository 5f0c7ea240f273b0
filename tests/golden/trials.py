"""Five small trials: losses of ten steps and what they make of the parameters, `trials.json`.

`python tests/golden/trials.py` writes the table. `outcome_of` trains a trial for any number of steps, in float32 or
float64; `tests/golden/compare.py` compares one step of it between two commits.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # as tests/conftest.py has it
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from golden.programs import PROCEDURES, planned

from jaxft.ops import convolution
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.examples import example_lane

TABLE = Path(__file__).with_suffix(".json")
NUM_STEPS = 10
TRIALS = {
    "full fine-tuning": {"optimizer.weight_decay": 0.01, "augmentation.flip.enabled": True, "schedule.warmup_steps": 2},
    "frozen prefix, AdamW": {
        "layers.rates": [["(stem|stage1)/.*", "frozen"]],
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 0.01,
        "loss.label_smoothing": 0.1,
    },
    "a probe, then stages": {
        "linear_probe.epochs": 1.0,
        "schedule.epochs": 4.0,
        "layers.unfreeze_epochs": [1.0],
        "layers.decay": 0.5,
        "batches.size": 20,  # two steps an epoch, so that ten steps are of all stages
    },
    "low-rank factors at SAM's point": {
        "layers.tune": "lora",
        "layers.lora_rank": 2,
        "optimizer.sam_radius": 0.05,
        "optimizer.ema_decay": 0.9,
    },
    "all terms of the loss": PROCEDURES["all terms of the loss"],
}


def drawn(name, shape):
    """Returns the values of a leaf, drawn from its name: kernels scaled by their inputs, variances about 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).normal(size=shape)
    match name.rpartition("/")[2]:
        case "kernel":
            return normal * np.sqrt(2 / np.prod(shape[:-1]))
        case "scale":
            return 1 + 0.1 * normal
        case "var":
            return 1 + 0.1 * np.abs(normal)
    return 0.1 * normal


def outcome_of(name, num_steps=NUM_STEPS, dtype=np.float32, executor=None):
    """Returns what became of the trial `name` of `TRIALS` after its first steps, evaluated after each."""
    _, group = planned("toy", 8, {"schedule.epochs": 2.0} | TRIALS[name])  # of 40 images, 8 a step
    trial = group.trials[0]
    program, left = trial.program, num_steps
    phases, ends = [], []
    for phase in program.phases:
        if count := min(phase.num_steps, left):
            phases.append(phase)
            ends.append(tuple(range(1, count + 1)))
            left -= count
    program = dataclasses.replace(program, phases=tuple(phases), epoch_ends=tuple(ends), select="last")
    lane = example_lane(trial)
    params, stats = (
        {leaf: drawn(f"{kind}/{leaf}", values.shape).astype(dtype) for leaf, values in tree.items()}
        for kind, tree in (("params", lane.params), ("batch_stats", lane.batch_stats))
    )
    numbers = jax.tree.map(lambda x: np.asarray(x, dtype) if np.asarray(x).dtype == np.float32 else x, lane.hparams)
    lane = dataclasses.replace(lane, params=params, batch_stats=stats, hparams=numbers)
    if any(phase.source_needs for phase in phases):
        of_source = {leaf: drawn(f"source/{leaf}", values.shape).astype(dtype) for leaf, values in params.items()}
        lane = dataclasses.replace(lane, source={"params": of_source, "batch_stats": stats})
    with convolution.use("xla"), jax.enable_x64(True) if dtype is np.float64 else contextlib.nullcontext():
        (outcome,) = run_chunk(program, [lane], trial.images.images, executor=executor)
    return outcome


def summary(outcome):
    """Returns the losses of an outcome, and of each leaf its norm and its product with a draw by its name."""
    leaves = {f"params/{n}": leaf for n, leaf in outcome.params.items()}
    leaves |= {f"batch_stats/{n}": leaf for n, leaf in outcome.batch_stats.items()}
    wide = {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
    return {
        "train_loss": [float(loss) for loss in outcome.curves["train_loss"]],
        "val_loss": [float(loss) for loss in outcome.curves["val_loss"]],
        "leaves": {
            name: [float(np.linalg.norm(leaf)), float((leaf * drawn(f"probe/{name}", leaf.shape)).sum())]
            for name, leaf in sorted(wide.items())
        },
    }


if __name__ == "__main__":
    import helpers  # noqa: F401  (the network 'toy')

    TABLE.write_text(json.dumps({name: summary(outcome_of(name)) for name in TRIALS}, indent=1) + "\n")
