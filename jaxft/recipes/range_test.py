"""A learning-rate range test (Smith 2017, section 3.3).

The test trains the candidate of `finetune` that trains the most layers, for a hundred steps from its initial weights.
The learning rate grows by a constant factor per step. At rates that are too low the loss hardly changes; at rates that
are too high it grows. The suggested rate is a tenth of the rate with the lowest smoothed loss.
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

from jaxft.config import Streams, Study, Training, to_dict
from jaxft.core.compile_cache import keep_compiled
from jaxft.core.errors import UserError
from jaxft.core.events import Listener, Warned
from jaxft.core.files import explained_os_errors, replacing
from jaxft.recipes.finetune.candidates import RECIPE
from jaxft.recipes.finetune.folder import RANGE_FIGURE, RANGE_RECORD, check_folder, is_same_command
from jaxft.recipes.finetune.options import FinetuneOptions
from jaxft.recipes.finetune.task import Task, make_task
from jaxft.store.records import Store
from jaxft.tracking.console import Progress

if TYPE_CHECKING:
    from jaxft.study.chunk.program import Program
    from jaxft.study.planned import Plan, PlannedTrial

LOWEST, HIGHEST = 1e-6, 10.0  # learning rates of the first and last step
NUM_STEPS = 100
SMOOTHING = 0.9  # decay of the moving average of the loss
NUM_NOISY_STEPS = 10  # first steps, whose moving average is too noisy to find the steepest fall
DIVERGED = 4.0  # the curve ends when the smoothed loss is larger than its minimum times this factor


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test. The curves end at the step at which training diverges.

    Attributes:
      rates: the learning rate of each step.
      losses: the loss of the batch of each step.
      smoothed: the exponential moving average of the losses.
      suggested: the suggested learning rate.
      steepest: the learning rate at which the smoothed loss falls fastest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    steepest: float


def judge(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Returns the result of a range test.

    Args:
      rates: the learning rate of each step, which grows by a constant factor.
      losses: the loss of each step. Losses after the first one that is not finite are ignored.

    Raises:
      FloatingPointError: training diverges within the first three steps.
    """
    smoothed: list[float] = []
    mean = 0.0
    for count, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        corrected = mean / (1 - SMOOTHING**count)
        if smoothed and corrected > DIVERGED * min(smoothed):
            break
        smoothed.append(corrected)
    if len(smoothed) < 3:
        raise FloatingPointError(f"training diverges within three steps, at a learning rate of {rates[0]:g}")
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    falls = [before - after for before, after in itertools.pairwise(smoothed)]
    steepest = max(range(NUM_NOISY_STEPS if len(falls) > NUM_NOISY_STEPS else 0, len(falls)), key=falls.__getitem__)
    end = len(smoothed)
    return RangeTest(tuple(rates[:end]), tuple(losses[:end]), tuple(smoothed), rates[lowest] / 10, rates[steepest])


def find_learning_rate(options: FinetuneOptions, force: bool = False, quiet: bool = False) -> RangeTest:
    """Runs a range test, and writes its figure and its record to `options.out`.

    Args:
      options: the options of `finetune`.
      force: whether to replace the range test of a call with other options.
      quiet: whether to print no progress on standard error.

    Raises:
      UserError: the weights, the images or the folder cannot be used, no candidate has a learning rate, or the folder
        contains the range test of a call with other options.
      FloatingPointError: training diverges within the first three steps.
    """
    from jaxft.report.rates import draw_range_test
    from jaxft.study.plan import make_plan

    folder = Path(options.out)
    check_folder(folder)
    task = make_task(options)
    identity = {**task.identity, "candidate": deepest(task)}
    if (folder / RANGE_RECORD).is_file():
        is_same_command(folder / RANGE_RECORD, identity, force)
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    keep_compiled()
    with Progress(quiet) as progress:
        plan = make_plan(range_study(task), progress)
        for warning in plan.warnings:
            progress(Warned(warning))
        rates, losses = run_range(plan, progress)
    range_test = judge(rates, losses)
    figure = draw_range_test(
        range_test.rates, range_test.losses, range_test.smoothed, range_test.suggested, range_test.steepest, task.title
    )
    record = {**identity, **dataclasses.asdict(range_test)}
    with explained_os_errors(folder), replacing(folder / RANGE_FIGURE) as temporary:
        temporary.write_bytes(figure)
    with explained_os_errors(folder), replacing(folder / RANGE_RECORD) as temporary:
        temporary.write_text(json.dumps(to_dict(record), indent=1), encoding="utf-8")
    return range_test


def deepest(task: Task) -> str:
    """Returns the name of the candidate that trains the most layers with a learning rate.

    Raises:
      UserError: no candidate has a learning rate, because all are logistic regressions.
    """
    names = [name for name, fields in task.candidates.items() if fields["schedule.epochs"]]
    if not names:
        raise UserError(
            "--find-lr cannot be used with --train head, because logistic regression has no learning rate; use "
            "--train top or --train all."
        )
    return names[-1]


def range_study(task: Task) -> Study:
    """Returns the study of the range test: `deepest(task)` at the highest learning rate, for `NUM_STEPS` steps."""
    fields: dict[str, Any] = {**RECIPE, **task.candidates[deepest(task)], "schedule.steps": NUM_STEPS}
    del fields["schedule.epochs"]
    fields |= {"optimizer.learning_rate": HIGHEST, "schedule.decay_factor": LOWEST / HIGHEST}
    return Study(
        title="Range test",
        source=task.source,
        target=dataclasses.replace(task.target, tested=False),
        training=Training.of({**fields}),
        streams=Streams(split=0),
        seeds=(0,),
        execution=task.execution,
    )


def run_range(plan: "Plan", emit: Listener) -> tuple[list[float], list[float]]:
    """Returns the learning rate and the loss of each step in the last phase of the first trial of a plan.

    The learning rate grows to the learning rate of the trial. Everything else is as in training: earlier phases,
    batches, augmentation, weight decay. Training stops when the loss is not finite.
    """
    import jax.numpy as jnp
    import numpy as np

    from jaxft.ops import convolution
    from jaxft.study.chunk.lanes import SharedImages
    from jaxft.study.chunk.loop import run_chunk
    from jaxft.study.services import make_services
    from jaxft.study.work import Work
    from jaxft.training.schedules import make_schedule

    trial, execution = plan.trials[0], plan.study.execution
    program = _range_program(trial)
    services = make_services(execution, emit)
    with tempfile.TemporaryDirectory() as folder, convolution.use(execution.cpu_convolution):
        work = Work(plan, Store.create(folder), services, debug=True)
        no_rows = np.zeros(0, np.int32)
        lane = dataclasses.replace(work.loader.lane(trial), val=no_rows, test=no_rows)
        (outcome,) = run_chunk(
            program,
            [lane],
            SharedImages(work.loader.images_of(trial), trial.images.fingerprint),
            services=services,
        )
    phase, training = program.phases[-1], trial.trial.training
    schedule = make_schedule(phase.optimizer.schedule, training.schedule.decay_factor)
    rates = [training.optimizer.learning_rate * float(schedule(jnp.int32(step))) for step in range(phase.num_steps)]
    return rates, [float(loss) for loss in outcome.curves["train_loss"][-phase.num_steps :]]


def _range_program(trial: "PlannedTrial") -> "Program":
    """Returns the program of a trial, with a growing learning rate and the loss of every step in the last phase."""
    from jaxft.training.schedules import Schedule

    *before, phase = trial.program.phases
    optimizer = dataclasses.replace(phase.optimizer, schedule=Schedule("range", phase.num_steps))
    all_steps = tuple(range(1, phase.num_steps + 1))
    return dataclasses.replace(
        trial.program,
        phases=(*before, dataclasses.replace(phase, optimizer=optimizer)),
        epoch_ends=(*trial.program.epoch_ends[:-1], all_steps),
    )
