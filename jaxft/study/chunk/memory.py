"""The programs that trials run, with the shapes of their arguments, and the memory that they take."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.study.chunk.compiled import (
    loops_on_device,
    make_eval,
    make_finite,
    make_init_states,
    make_merge,
    make_moments,
    make_steps,
)
from jaxft.study.chunk.evaluation import eval_batch
from jaxft.study.chunk.examples import example_phase
from jaxft.study.chunk.lanes import Lane
from jaxft.study.chunk.program import Program
from jaxft.study.chunk.recalibration import MOMENTS_BATCH
from jaxft.study.device_memory import is_out_of_memory
from jaxft.study.executors import Executor
from jaxft.training.adapters import is_adapter


def needed_bytes(program: Program, lane: Lane, images: np.ndarray, executor: Executor) -> float:
    """Returns the memory of a device that trials like `lane` take as the executor runs them, in the program of most.

    It is read from the compiled programs: their arguments (the images and all that is frozen too), results and
    temporary memory. The best weights so far, which are in memory beside, are added. It is infinite where a program
    cannot even be compiled for want of memory.
    """
    executor = executor.on_one_device()
    trained = {name for phase in program.phases for name in phase.trainable}
    tracked = {name for phase in program.phases for name in phase.tracked}
    of_one = _bytes(([lane.params[name] for name in trained], [lane.batch_stats[name] for name in tracked]))
    best = of_one * executor.width / executor.num_devices
    return best + max(
        _program_bytes(function, args) for _, function, args in compiled_programs(program, lane, images, executor)
    )


def _program_bytes(function: Any, args: Sequence[Any]) -> float:
    """Returns the memory of a device that a program takes, its arguments and results too."""
    try:
        memory = function.lower(*args).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return math.inf
        raise
    lasting_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return lasting_bytes + memory.temp_size_in_bytes


def compiled_programs(
    program: Program, lane: Lane, images: np.ndarray, executor: Executor
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yields the programs that trials like `lane` run: a name, the function, and the shapes of its arguments.

    The shapes say where arrays lie, so that a program that is compiled for them is the one that will be run.
    """
    trial_sharding, shared_sharding, batch_sharding = (
        executor.trial_sharding,
        executor.shared_sharding,
        executor.batch_sharding,
    )
    width = executor.width
    for planned in program.phases:
        phase, *variables, frozen, images_of_phase = example_phase(planned, lane, images)
        trial_arrays = (*variables, lane.hparams, lane.augment_key, lane.labels)
        trainable, tracked, hparams, key, labels = _shapes(trial_arrays, trial_sharding, width)
        frozen, seen = _shapes((frozen, images_of_phase), shared_sharding)
        init_states = make_init_states(phase)
        yield "init", init_states, (trainable, tracked, hparams, key)
        state = _shapes(jax.eval_shape(init_states, trainable, tracked, hparams, key), trial_sharding)
        num_rows = 1 if phase.is_full_batch else phase.num_steps
        indices = _shapes(np.zeros((num_rows, phase.batch_size), np.int32), batch_sharding, width)
        count = (jnp.int32(1),) if loops_on_device(phase) else ()
        yield "train", make_steps(phase, executor), (state, hparams, labels, indices, *count, frozen, seen)
        params, eval_frozen = trainable, frozen._replace(source_arrays=None)
        if any(map(is_adapter, trainable)):
            yield "merge", make_merge(executor), (trainable, hparams.lora_scale, frozen.params)
            merged = jax.eval_shape(make_merge(executor), trainable, hparams.lora_scale, frozen.params)
            params = _shapes(merged, trial_sharding)
        yield "finite", make_finite(executor), (params, tracked)
        if phase.recalibrates:
            rows = _shapes(np.zeros((1, min(len(lane.train), MOMENTS_BATCH)), np.int32), trial_sharding, width)
            yield "moments", make_moments(phase.evaluated, executor), (params, tracked, rows, eval_frozen, seen)
        if len(lane.val) or len(lane.test):
            size = eval_batch(program, [lane], executor.num_devices)
            batch = _shapes((np.zeros((1, size), np.int32), np.zeros((1, size), bool)), batch_sharding, width)
            yield "evaluate", make_eval(phase.evaluated, executor), (params, tracked, labels, *batch, eval_frozen, seen)


def _shapes(tree: Any, sharding: jax.sharding.Sharding, width: int | None = None) -> Any:
    """Returns the shapes of arrays that lie as `sharding` says, those of `width` trials where it is given."""
    lanes = () if width is None else (width,)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lanes, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, jax.eval_shape(lambda: tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
