"""The step of a linear probe with L-BFGS (Nocedal & Wright 2006, algorithm 7.4); each step uses all images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxft.training.batch import Metrics, load_images
from jaxft.training.forward import apply_network
from jaxft.training.hparams import HParams
from jaxft.training.optimizers import make_tx
from jaxft.training.phase import Phase
from jaxft.training.state import Flat, Frozen, State

CHUNK_SIZE = 256  # images in memory at the same time


def make_lbfgs_step(phase: Phase) -> Callable[..., tuple[State, Metrics]]:
    """Returns `lbfgs_step(state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    indices: [1, rows] int32, all images of the phase and all their views. The other arguments are those of
    `make_train_step`. The objective is the mean loss plus weight_decay / 2 ||w||^2 over the leaves with weight decay.
    The metrics are computed after the step and do not include the penalty.
    """
    tx = make_tx(phase.optimizer)

    def lbfgs_step(
        state: State, hparams: HParams, labels: jax.Array, indices: jax.Array, frozen: Frozen, images: jax.Array
    ) -> tuple[State, Metrics]:
        count = indices.shape[1]
        size = min(CHUNK_SIZE, count)
        chunks = jnp.pad(indices[0], (0, -count % size)).reshape(-1, size)
        masks = (jnp.arange(chunks.size) < count).reshape(chunks.shape)

        def evaluate(params: Flat) -> Metrics:
            @jax.checkpoint  # the backward pass recomputes each chunk, so only one chunk is in memory
            def add(total: Metrics, chunk: tuple[jax.Array, jax.Array]) -> tuple[Metrics, None]:
                rows, mask = chunk
                batch, targets = load_images(phase, state, labels, images, rows)
                logits, _ = apply_network(phase, params, state.batch_stats, frozen, batch, train=True)
                losses = jnp.where(mask, phase.targets.losses(logits, targets, hparams), 0.0)
                correct = phase.targets.is_correct(phase.targets.predictions(logits), targets) & mask
                return Metrics(total.loss + losses.sum(), total.accuracy + correct.sum().astype(jnp.float32)), None

            total, _ = jax.lax.scan(add, Metrics(jnp.float32(0), jnp.float32(0)), (chunks, masks))
            return Metrics(total.loss / count, total.accuracy / count)

        def objective(params: Flat) -> jax.Array:
            squares = sum(jnp.vdot(leaf, leaf) for name, leaf in params.items() if name in phase.optimizer.decayed)
            return evaluate(params).loss + hparams.probe_weight_decay / 2 * squares

        value, grads = optax.value_and_grad_from_state(objective)(state.params, state=state.opt_state)
        updates, opt_state = tx(hparams).update(
            grads, state.opt_state, state.params, value=value, grad=grads, value_fn=objective
        )
        params = optax.apply_updates(state.params, updates)
        return State(params, state.batch_stats, opt_state, state.step + 1, state.key), evaluate(params)

    return lbfgs_step
