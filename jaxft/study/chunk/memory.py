"""The compiled programs of trials, the shapes of their arguments, and their memory."""

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


def needed_bytes(program: Program, example: Lane, images: np.ndarray, executor: Executor) -> float:
    """Returns the bytes that trials take on each device with an executor.

    This is the largest sum of arguments (including images and frozen leaves), results and temporary memory of a
    compiled program, plus the weights of the best epoch. It is infinite if the compiler runs out of memory.

    Args:
      program: the program of the trials.
      example: the arrays of one trial; the other trials have equal shapes.
      images: [n, h, w, 3] uint8.
      executor: the executor.
    """
    executor = executor.on_one_device()
    trained = {name for phase in program.phases for name in phase.trainable}
    tracked = {name for phase in program.phases for name in phase.tracked}
    trial_bytes = _bytes(([example.params[name] for name in trained], [example.batch_stats[name] for name in tracked]))
    best_bytes = trial_bytes * executor.width / executor.num_devices
    return best_bytes + max(
        _program_bytes(function, args) for _, function, args in compiled_programs(program, example, images, executor)
    )


def _program_bytes(function: Any, args: Sequence[Any]) -> float:
    """Returns the bytes that a program takes on each device: arguments, results and temporary memory."""
    try:
        memory = function.lower(*args).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return math.inf
        raise
    lasting_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return lasting_bytes + memory.temp_size_in_bytes


def compiled_programs(
    program: Program, example: Lane, images: np.ndarray, executor: Executor
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yields (name, function, shapes of the arguments) of the compiled programs of trials.

    The shapes have the shardings of the arrays, so a program that is compiled for them is not compiled again.

    Args:
      program: the program of the trials.
      example: the arrays of one trial; the other trials have equal shapes.
      images: [n, h, w, 3] uint8.
      executor: the executor.
    """
    trial_sharding, shared_sharding, batch_sharding = (
        executor.trial_sharding,
        executor.shared_sharding,
        executor.batch_sharding,
    )
    width = executor.width
    for planned_phase in program.phases:
        phase, *variables, frozen, phase_images = example_phase(planned_phase, example, images)
        trial_arrays = (*variables, example.hparams, example.augment_key, example.labels)
        trainable, tracked, hparams, key, labels = _shapes(trial_arrays, trial_sharding, width)
        frozen, phase_images = _shapes((frozen, phase_images), shared_sharding)
        init_states = make_init_states(phase)
        yield "init", init_states, (trainable, tracked, hparams, key)
        state = _shapes(jax.eval_shape(init_states, trainable, tracked, hparams, key), trial_sharding)
        num_rows = 1 if phase.is_full_batch else phase.num_steps
        indices = _shapes(np.zeros((num_rows, phase.batch_size), np.int32), batch_sharding, width)
        count = (jnp.int32(1),) if loops_on_device(phase) else ()
        yield "train", make_steps(phase, executor), (state, hparams, labels, indices, *count, frozen, phase_images)
        params, eval_frozen = trainable, frozen._replace(source_arrays=None)
        if any(map(is_adapter, trainable)):
            yield "merge", make_merge(executor), (trainable, hparams.lora_scale, frozen.params)
            merged_shapes = jax.eval_shape(make_merge(executor), trainable, hparams.lora_scale, frozen.params)
            params = _shapes(merged_shapes, trial_sharding)
        yield "finite", make_finite(executor), (params, tracked)
        if phase.recalibrates:
            rows = _shapes(np.zeros((1, min(len(example.train), MOMENTS_BATCH)), np.int32), trial_sharding, width)
            yield "moments", make_moments(phase.eval_spec, executor), (params, tracked, rows, eval_frozen, phase_images)
        if len(example.val) or len(example.test):
            size = eval_batch(program, [example], executor.num_devices)
            batch = _shapes((np.zeros((1, size), np.int32), np.zeros((1, size), bool)), batch_sharding, width)
            yield (
                "evaluate",
                make_eval(phase.eval_spec, executor),
                (params, tracked, labels, *batch, eval_frozen, phase_images),
            )


def _shapes(tree: Any, sharding: jax.sharding.Sharding, width: int | None = None) -> Any:
    """Returns the shapes of arrays with a sharding; with `width`, they get a leading trial axis of this length."""
    lanes = () if width is None else (width,)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lanes, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, jax.eval_shape(lambda: tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
