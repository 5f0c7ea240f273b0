"""Estimated time of the missing trials of a study."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxft.core import events
from jaxft.core.events import Listener, print_warnings
from jaxft.core.timing import Clock
from jaxft.data.augmentation.evaluation import NUM_CROPS
from jaxft.ops import convolution
from jaxft.store.records import Store
from jaxft.study.chunk.timing import time_evaluation, time_steps
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import Sequential
from jaxft.study.planned import Plan


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The missing work of a plan.

    Attributes:
      trials: number of missing trials.
      sources: number of missing source networks.
      seconds: estimated seconds of 'sources', 'training', 'evaluation' and 'compiling'.
    """

    trials: int
    sources: int
    seconds: Mapping[str, float]


def estimate(plan: Plan, store: Store | None, emit: Listener = print_warnings) -> Estimate:
    """Returns the estimated time of the missing trials and sources of a plan, run sequentially in one process.

    If `store` is None, all of them are missing. One training step and one evaluation are timed for each combination of
    network, batch size, augmentation and gradient. The compile time of a combination is the measured one times the
    number of its further programs, because the timed program is in the compile cache already.
    """
    trials = [trial for trial in plan.trials if store is None or not store.has("trials", trial.digest)]
    needed = {trial.source.trained for trial in trials if trial.starts_from_source}
    sources = [s for s in plan.sources if s in needed and (store is None or not store.has("sources", s.digest))]
    seconds = dict.fromkeys(("sources", "training", "evaluation", "compiling"), 0.0)
    timed: dict[Any, tuple[float, float, float]] = {}
    programs: dict[Any, set[Any]] = {}
    with convolution.use(plan.study.execution.cpu_convolution):
        for planned in (*sources, *(trial for trial in trials if trial.feature_classifier is None)):
            program = planned.program
            phase = max(program.phases, key=lambda phase: phase.num_steps)
            static_part = (
                phase.batch_size,
                phase.augmentations,
                phase.views,
                phase.is_full_batch,
                phase.prefix,
                program.eval_batch_size,
            )
            gradient = phase.optimizer.kind, phase.num_micro_batches, phase.sharpness, phase.regularizers
            kind = planned.model, planned.size_px, planned.resize_px, phase.trainable, static_part, gradient
            if kind not in timed:
                emit(events.Working(f"timing {planned.model.architecture}"))
                lane, clock = example_lane(planned), Clock()
                images = example_images(planned, plan.study.execution)
                with clock.measure("timing"):
                    step_seconds = time_steps(program, lane, images, Sequential())
                    image_seconds = time_evaluation(program, lane, images)
                timed[kind] = step_seconds, image_seconds, clock.seconds["compile"]
            programs.setdefault(kind, set()).update(program.phases)
            step_seconds, image_seconds, _ = timed[kind]
            split = planned.split
            num_evaluated = program.num_epochs * len(split.val)
            num_evaluated += len(split.test) * (NUM_CROPS if program.test_crops == "ten" else 1)
            if program.phases[-1].recalibrates:
                num_evaluated += len(split.train) + len(split.val)
            activity = "sources" if planned in sources else "training"
            seconds[activity] += step_seconds * sum(phase.num_steps for phase in program.phases)
            seconds["evaluation"] += image_seconds * num_evaluated
    for kind, phases in programs.items():
        seconds["compiling"] += timed[kind][2] * (len(phases) - 1)
    return Estimate(len(trials), len(sources), seconds)
