"""The training step: load batch, augment, forward pass, loss and penalties, gradient, update, moving average.

Parameters are flat dicts, `{'stage1/block2/conv1/kernel': leaf}`. Trainable parameters are in the state. Frozen
parameters are a separate argument, so they need neither a gradient nor a copy per trial.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxft.training.adapters import merge
from jaxft.training.batch import Batch, Metrics, load_batch
from jaxft.training.forward import Variables, run_network
from jaxft.training.gradients import in_micro_batches, running_mean, sam_point
from jaxft.training.hparams import HParams
from jaxft.training.lbfgs import make_lbfgs_step
from jaxft.training.noise import NoiseKey
from jaxft.training.optimizers import make_tx
from jaxft.training.phase import Phase
from jaxft.training.regularizers.context import StepContext
from jaxft.training.state import Flat, Frozen, State
from jaxft.training.targets import Targets


@functools.cache
def make_train_step(phase: Phase) -> Callable[..., tuple[State, Metrics]]:
    """Returns `train_step(state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    labels: [images] int32. indices: [steps of the phase, batch] int32, the images of each step; a step uses the row
    `state.step`. With L-BFGS, each step uses all images, and indices is [1, rows]. images: [images, h, w, 3] uint8, or
    outputs of the frozen prefix. All trials of a group share `frozen` and `images`.
    """
    if phase.is_full_batch:
        return make_lbfgs_step(phase)
    tx, regularizers = make_tx(phase.optimizer), phase.regularizers

    def train_step(
        state: State, hparams: HParams, labels: jax.Array, indices: jax.Array, frozen: Frozen, images: jax.Array
    ) -> tuple[State, Metrics]:
        rows = jax.lax.dynamic_index_in_dim(indices, state.step, keepdims=False)
        whole_batch, mix_weight = load_batch(phase, state, hparams, labels, images, rows)

        def loss_fn(params: Flat, batch_stats: Flat, batch: Batch) -> tuple[jax.Array, tuple[Flat, Metrics]]:
            merged = merge(params, frozen.params, hparams.lora_scale)
            key = jax.random.fold_in(state.key, phase.first_step + state.step)
            noise = regularizers.noise(hparams.regularizers, phase.model, NoiseKey(key, batch.positions))
            variables = Variables(merged, batch_stats, frozen)
            blocks = regularizers.outputs(phase.model)
            forward = run_network(phase, variables, batch.images, train=True, keep=blocks, noise=noise)

            def losses(targets: Targets) -> jax.Array:
                return phase.targets.losses(forward.logits, targets.labels, hparams)

            def is_correct(targets: Targets) -> jax.Array:
                predictions = phase.targets.predictions(forward.logits)
                return jnp.float32(phase.targets.is_correct(predictions, targets.labels))

            targets = batch.targets(mix_weight)
            metrics = Metrics(targets.mean(losses), targets.mean(is_correct))
            context = StepContext(phase, hparams, merged, forward, targets, frozen.source_arrays, key)
            penalty = regularizers.penalty(context)
            loss = metrics.loss if penalty is None else metrics.loss + penalty
            return loss, (forward.batch_stats, metrics)

        gradient = in_micro_batches(jax.grad(loss_fn, has_aux=True), phase.num_micro_batches)
        grads, (batch_stats, metrics) = gradient(state.params, state.batch_stats, whole_batch)
        if phase.sharpness:  # the second forward pass does not update the statistics
            point = sam_point(state.params, grads, hparams.sam_radius)
            grads, _ = gradient(point, state.batch_stats, whole_batch)
        updates, opt_state = tx(hparams).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if phase.averaged:
            count = phase.first_step + state.step + 1
            average = running_mean(state.average, (params, batch_stats), hparams.ema_decay, count)
        return State(params, batch_stats, opt_state, state.step + 1, state.key, average), metrics

    return train_step
