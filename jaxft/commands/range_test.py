"""`jaxft finetune --find-lr`: a range test of the learning rate (Smith 2017, section 3.3).

The deepest of finetune's candidates is trained for a hundred steps, from its start and by its own step, while the rate
grows by one factor from step to step. As long as the rate is too small the loss hardly moves, and where it is too large
it grows. Suggested is a tenth of the rate at which the smoothed loss is least.
"""

import dataclasses
import itertools
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import Source, Streams, Study, Training, to_dict
from jaxft.core.errors import UserError
from jaxft.core.files import replacing, saying_what_is_wrong
from jaxft.store.records import Store

if TYPE_CHECKING:
    from jaxft.commands.finetune import Task
    from jaxft.study.plan import Plan
    from jaxft.tracking.console import Progress

LOWEST, HIGHEST = 1e-6, 10.0
NUM_STEPS = 100
SMOOTHING = 0.9
EARLY = 10  # steps, whose mean is of too few batches to tell a fall from noise
HOPELESS = 4.0  # times the least smoothed loss, from where on the curve says nothing
PICTURE, RECORD = "learning_rate.png", "learning_rate.json"


@dataclass(frozen=True)
class RangeTest:
    """The loss of each step's batch by the rate of the step, as far as it is of use, and what follows from it.

    `smoothed` is its exponential moving average; `steepest` is the rate at which that falls fastest by decades.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    steepest: float


def judge(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Returns what a range test says.

    Args:
      rates: those of the steps, growing by one factor.
      losses: of the steps; what is not finite, and all behind it, is left out.

    Raises:
      FloatingPointError: the loss is finite at fewer than three steps.
    """
    smoothed: list[float] = []
    mean = 0.0
    for count, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        corrected = mean / (1 - SMOOTHING**count)
        if smoothed and corrected > HOPELESS * min(smoothed):
            break
        smoothed.append(corrected)
    if len(smoothed) < 3:
        raise FloatingPointError(f"the loss diverges at once, at a learning rate of {rates[0]:g}")
    least = min(range(len(smoothed)), key=smoothed.__getitem__)
    falls = [before - after for before, after in itertools.pairwise(smoothed)]
    steepest = max(range(EARLY if len(falls) > EARLY else 0, len(falls)), key=falls.__getitem__)
    end = len(smoothed)
    return RangeTest(tuple(rates[:end]), tuple(losses[:end]), tuple(smoothed), rates[least] / 10, rates[steepest])


def find_rate(task: "Task", out: Path, progress: "Progress") -> RangeTest:
    """Runs a range test of a task's deepest candidate, and writes its picture and its record into the folder `out`.

    Raises a `UserError` where nothing of the task is trained by steps.
    """
    from jaxft.report.rates import draw_range_test
    from jaxft.study.plan import make_plan

    rates, losses = run_range(make_plan(range_study(task), progress.note), progress)
    found = judge(rates, losses)
    title = f"{task.model.architecture} on {Path(task.data).name}"
    with saying_what_is_wrong(out), replacing(out / PICTURE) as temporary:
        temporary.write_bytes(
            draw_range_test(found.rates, found.losses, found.smoothed, found.suggested, found.steepest, title)
        )
    record = {"candidate": deepest(task), **dataclasses.asdict(found)}
    with saying_what_is_wrong(out), replacing(out / RECORD) as temporary:
        temporary.write_text(json.dumps(to_dict(record), indent=1), encoding="utf-8")
    return found


def deepest(task: "Task") -> str:
    """Returns the name of the candidate that trains most, by steps."""
    names = [name for name, fields in task.candidates.items() if fields["schedule.epochs"]]
    if not names:
        raise UserError("--find-lr is of no use with --train head, whose heads have no learning rate; give top or all.")
    return names[-1]


def range_study(task: "Task") -> Study:
    """Returns the study of the range test: the candidate at the highest rate, for as many steps."""
    from jaxft.commands.finetune import RECIPE

    fields: dict[str, Any] = {**RECIPE, **task.candidates[deepest(task)], "schedule.steps": NUM_STEPS}
    del fields["schedule.epochs"]
    fields |= {"optimizer.learning_rate": HIGHEST, "schedule.decay_factor": LOWEST / HIGHEST}
    return Study(
        title="Range test",
        source=Source(model=task.model.architecture, weights=task.weights),
        target=dataclasses.replace(task.target, tested=False),
        training=Training.of({**fields}),
        streams=Streams(split=0),
        seeds=(0,),
        execution=task.execution,
    )


def run_range(plan: "Plan", progress: "Progress") -> tuple[list[float], list[float]]:
    """Returns the rate and the loss of every step of a trial's last phase, whose rate grows to that of the trial.

    The trial is the first of the plan.

    All of it is as in training: phases before it, batches, random changes, weight decay. The losses end where one is
    not finite.
    """
    import jax.numpy as jnp
    import numpy as np

    from jaxft.features.activations import make_feature_cache
    from jaxft.ops import convolution
    from jaxft.study.loop import run_chunk
    from jaxft.study.run import Work
    from jaxft.training.schedules import Schedule, make_schedule

    trial, execution = plan.trials[0], plan.study.execution
    phase = trial.program.phases[-1]
    schedule = Schedule("range", phase.num_steps)
    phase = dataclasses.replace(phase, optimizer=dataclasses.replace(phase.optimizer, schedule=schedule))
    every_step = tuple(range(1, phase.num_steps + 1))  # is an epoch of its own, whose loss is noted
    program = dataclasses.replace(
        trial.program,
        phases=(*trial.program.phases[:-1], phase),
        epoch_ends=(*trial.program.epoch_ends[:-1], every_step),
    )
    features = make_feature_cache(execution)
    with (
        tempfile.TemporaryDirectory() as folder,
        convolution.use(execution.cpu_convolution),
    ):
        work = Work(plan, Store.create(folder), progress, True, features)
        nothing = np.zeros(0, np.int32)
        lane = dataclasses.replace(work.lane(trial), val=nothing, test=nothing)
        (outcome,) = run_chunk(
            program,
            [lane],
            work.images_of(trial),
            progress.note,
            features=features,
            fingerprint=trial.images.fingerprint,
            say=progress.note,
            clock=progress.clock,
        )
    training = trial.trial.training
    share = make_schedule(schedule, training.schedule.decay_factor)
    rates = [training.optimizer.learning_rate * float(share(jnp.int32(step))) for step in range(phase.num_steps)]
    return rates, [float(loss) for loss in outcome.curves["train_loss"][-phase.num_steps :]]
