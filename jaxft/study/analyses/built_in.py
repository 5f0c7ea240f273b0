"""The built-in analyses."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxft.analysis.barriers import loss_barrier
from jaxft.analysis.batch_norm import batch_norm_shifts, rms_shifts
from jaxft.analysis.layer_swaps import blocks_of, swap_layers
from jaxft.analysis.spectra import spectra
from jaxft.analysis.trajectory import TOTAL, trajectory
from jaxft.core.registries import ANALYSES
from jaxft.study.analyses.analysis import Analysis, Row, TrainedTrial

BARRIER_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def measure_spectra(trial: TrainedTrial) -> Iterator[Row]:
    """Yields the stable rank of the change of each kernel, and the share of its largest singular value.

    Kernels that did not change have no rows.
    """
    before, after = dict(trial.initial["params"]), dict(trial.final["params"])
    for name, spectrum in jax.device_get(spectra(before, after, 1)).items():
        if np.isfinite(spectrum.stable_rank):
            yield Row("leaf", name, "stable_rank", spectrum.stable_rank)
            yield Row("leaf", name, "top_energy", spectrum.energy[0])


def measure_batch_norm(trial: TrainedTrial) -> Iterator[Row]:
    """Yields the root mean square over the channels of the shifts of each batch norm, each quantity on its own."""
    shifts = rms_shifts(batch_norm_shifts(trial.initial, trial.final))
    for layer, by_quantity in jax.device_get(shifts).items():
        for quantity, value in by_quantity.items():
            yield Row("layer", layer, f"{quantity}_shift", value)


def measure_rewind(trial: TrainedTrial) -> Iterator[Row]:
    """Yields the loss of validation accuracy after a block has its initial values again, for each block and the head.

    Reference: Zhang, Bengio & Singer 2019, "Are all layers created equal?", section 3.
    """
    names = [name for tree in trial.final.values() for name in tree]
    blocks = [block for block in trial.planned.model.blocks if any(f"/{block}/" in f"/{name}" for name in names)]
    accuracy = trial.accuracy(trial.final)
    yield Row("total", "total", "accuracy", accuracy)
    rewound = swap_layers(trial.accuracy, trial.final, trial.initial, blocks_of(trial.final, blocks))
    for block, value in rewound.items():
        yield Row("block", block, "rewind_drop", accuracy - value)


def measure_barrier(first: TrainedTrial, second: TrainedTrial) -> Iterator[Row]:
    """Yields the loss barrier on the line between the final weights of two seeds, on validation images of the first.

    The loss is measured at five points of the line, so the barrier is a lower bound of the largest one. Batch-norm
    statistics that training updated are recalibrated at every point.
    """
    line = loss_barrier(first.loss, first.final, second.final, BARRIER_ALPHAS, first.recalibrated)
    yield Row("total", "total", "barrier", line.barrier)
    yield Row("total", "total", "loss_of_middle", line.losses[len(line.losses) // 2])


def measure_trajectory(trial: TrainedTrial) -> Iterator[Row]:
    """Yields path length, straightness and update ratios of the weights from the initial weights over the snapshots.

    The path length is that of the polygon through the snapshots, a lower bound of the length over all steps.
    """
    steps = []

    def weights() -> Iterator[dict[str, Any]]:
        yield dict(trial.initial["params"])
        for step, params in trial.snapshots():
            steps.append(step)
            yield params

    path = trajectory(weights())
    for i, name in enumerate(path.names):
        yield Row("total" if name == TOTAL else "layer", name, "path_length", path.path_length[i])
        yield Row("total" if name == TOTAL else "layer", name, "straightness", path.straightness[i])
    for step, ratio in zip(steps, path.update_ratios[:, path.names.index(TOTAL)]):
        yield Row("step", str(step), "update_ratio", ratio)


ANALYSES.register(
    "spectra", Analysis(measure_spectra), help="stable rank and largest singular value of the change of each kernel"
)
ANALYSES.register(
    "batch_norm", Analysis(measure_batch_norm), help="shifts of scale, bias, mean and variance of each batch norm"
)
ANALYSES.register(
    "rewind",
    Analysis(measure_rewind, min_images=1),
    help="loss of validation accuracy after a block has its initial values again",
)
ANALYSES.register(
    "trajectory",
    Analysis(measure_trajectory, needs_snapshots=True),
    help="path length and straightness of the weights during training, by layer, from execution.snapshot_steps",
)
ANALYSES.register(
    "barrier",
    Analysis(measure_barrier, of_pairs=True, min_images=1),
    help="loss barrier between the final weights of each pair of seeds of a setting, on validation images",
)
