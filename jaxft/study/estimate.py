"""About how long what is missing of a study takes."""

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
    """What a plan still needs: trials and sources, and seconds of 'sources', 'training', 'evaluation', 'compiling'."""

    trials: int
    sources: int
    seconds: Mapping[str, float]


def estimate(plan: Plan, store: Store | None, emit: Listener = print_warnings) -> Estimate:
    """Returns how long what `store` lacks of a plan takes in one process, trial after trial.

    Steps and evaluations are timed here, once for each kind of network, batch and random changes. What it takes to
    compile is that of the programs timed, times how many others of their kind there are: those timed are kept by then.
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
            how = (
                phase.batch_size,
                phase.augmentations,
                phase.views,
                phase.is_full_batch,
                phase.prefix,
                program.eval_batch_size,
            )
            gradient = phase.optimizer.kind, phase.num_micro_batches, phase.sharpness, phase.regularizers
            kind = planned.model, planned.size_px, planned.resize_px, phase.trainable, how, gradient
            if kind not in timed:
                emit(events.Working(f"timing {planned.model.architecture}"))
                lane, clock = example_lane(planned), Clock()
                images = example_images(planned, plan.study.execution)
                with clock.of("timing"):
                    a_step = time_steps(program, lane, images, Sequential())
                    an_image = time_evaluation(program, lane, images)
                timed[kind] = a_step, an_image, clock.seconds["compile"]
            programs.setdefault(kind, set()).update(program.phases)
            a_step, an_image, _ = timed[kind]
            split = planned.split
            num_evaluated = program.num_epochs * len(split.val)
            num_evaluated += len(split.test) * (NUM_CROPS if program.test_crops == "ten" else 1)
            if program.phases[-1].recalibrates:
                num_evaluated += len(split.train) + len(split.val)
            what = "sources" if planned in sources else "training"
            seconds[what] += a_step * sum(phase.num_steps for phase in program.phases)
            seconds["evaluation"] += an_image * num_evaluated
    for kind, phases in programs.items():
        seconds["compiling"] += timed[kind][2] * (len(phases) - 1)
    return Estimate(len(trials), len(sources), seconds)
