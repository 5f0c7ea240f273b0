"""What became of trials: the test images, read once with the selected weights."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxft.study.chunk.carry import Carry
from jaxft.study.chunk.evaluation import evaluate
from jaxft.study.chunk.feed import Feed
from jaxft.study.chunk.lanes import CURVES, Lane, Outcome
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.recalibration import check_frozen, recalibrate
from jaxft.study.chunk.resuming import Saver
from jaxft.study.executors import Executor
from jaxft.training.adapters import merge
from jaxft.training.state import Flat


def read_outcomes(
    program: Program,
    feed: Feed,
    executor: Executor,
    carry: Carry,
    lanes: Sequence[Lane],
    params: list[Flat],
    stats: list[Flat],
    saver: Saver,
) -> list[Outcome]:
    """Reads the test images, once, with the selected weights."""
    best_params, best_stats = carry.best
    best_score, of_val = carry.best_score[:, 0], None
    if program.phases[-1].recalibrates:
        best_stats = recalibrate(feed, executor, best_params, best_stats, lanes)
        of_val = evaluate(program, feed, executor, best_params, best_stats, lanes, "val")
        best_score = of_val.accuracy
    tested = evaluate(program, feed, executor, best_params, best_stats, lanes, "test")
    best_params, best_stats = jax.device_get((best_params, best_stats))
    moving = {name for phase in program.phases for name in phase.tracked}
    seconds = saver.seconds(carry) / len(lanes)
    outcomes = []
    for i, lane in enumerate(lanes):
        diverged = bool(carry.diverged[i]) or not tested.finite[i]
        selected = int(carry.best_epoch[i])
        no_val, no_test = diverged or not len(lane.val), diverged or not len(lane.test)
        curves = {name: carry.history[i, :, j] for j, name in enumerate(CURVES)}
        final_stats = stats[i] | {name: leaf[i] for name, leaf in best_stats.items()}
        check_frozen(lane.batch_stats, final_stats, moving)
        per_class = curves["val_mean_per_class"][selected] if of_val is None else of_val.mean_per_class[i]
        outcomes.append(
            Outcome(
                params=plain_params(params[i] | {name: leaf[i] for name, leaf in best_params.items()}, lane),
                batch_stats=final_stats,
                curves={"epoch": np.array(program.epochs), **curves},
                diverged=diverged,
                selected_epoch=None if diverged else program.epochs[selected],
                val_accuracy=None if no_val else float(best_score[i]),
                test_accuracy=None if no_test else float(tested.accuracy[i]),
                val_mean_per_class=None if no_val else float(per_class),
                test_mean_per_class=None if no_test else float(tested.mean_per_class[i]),
                test_predictions=tested.predictions[i],
                seconds=seconds,
            )
        )
    return outcomes


def plain_params(params: Flat, lane: Lane) -> Flat:
    """Returns the parameters of a network, changes of kernels merged into them."""
    return merge(params, params, lane.hparams.lora_scale)
