"""Training and evaluating one trial: pure functions of arrays.

Parameters are flat dicts, `{'stage1/block2/conv1/kernel': leaf}`, split in the trainable ones, which the state
holds, and the frozen ones, which are an argument of their own and cost no gradient and no copy.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.core.paths import unflatten
from jaxft.data.augmentation.augment import augment, mix, view
from jaxft.training.adapters import merge
from jaxft.training.forward import Pass, apply_network, run_network
from jaxft.training.gradients import in_parts, running_mean, sam_point
from jaxft.training.optimizers import HParams, make_tx
from jaxft.training.phases import NONE, Phase
from jaxft.training.regularization import Reference, branch_factors, distillation_loss, drop, penalty
from jaxft.training.state import Flat, Frozen, State

PIECE = 256  # images of a step over all of them that are worked out at a time
MIX_STREAM = 3  # beside the numbers of the streams in `data.augment.augment`
DROP_STREAM, DEPTH_STREAM = 4, 5


class Targets(NamedTuple):
    """What images of a batch should be: their labels, and which of the phase's images they are."""

    labels: jax.Array
    rows: jax.Array


class Part(NamedTuple):
    """Images of a batch: theirs, the targets of those that they are mixed with where they are, places in the batch."""

    images: jax.Array
    own: Targets
    other: Targets
    places: jax.Array


class Metrics(NamedTuple):
    """Mean loss and accuracy of a batch."""

    loss: jax.Array
    accuracy: jax.Array


@functools.cache
def make_train_step(phase: Phase) -> Callable[..., tuple[State, Metrics]]:
    """Returns `train_step(state, hparams, labels, indices, frozen, images) -> (state, metrics)`.

    labels: [images] int32; indices: [steps of the phase, batch] int32, of which the state's step picks one row, or
    [1, batch] where every step is over all; images: [images, h, w, 3] uint8, or the prefix's outputs for them. The
    last two arguments are shared by all trials.
    """
    tx = make_tx(phase.optimizer)

    def look(state: State, labels: jax.Array, images: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        if phase.from_features or not phase.changes_images:
            return images[rows], labels[rows]
        if phase.views:
            at = rows % len(images)
            return view(state.key, images[at], at, rows // len(images), phase.changes), labels[at]
        return augment(jax.random.fold_in(state.key, state.step), images[rows], phase.changes), labels[rows]

    def losses(logits: jax.Array, labels: jax.Array, hparams: HParams) -> jax.Array:
        each = cross_entropy(logits, labels, hparams)
        return each * hparams.class_weights[labels] if phase.weighted else each

    def train_step(
        state: State,
        hparams: HParams,
        labels: jax.Array,
        indices: jax.Array,
        frozen: Frozen,
        images: jax.Array,
    ) -> tuple[State, Metrics]:
        rows = jax.lax.dynamic_index_in_dim(indices, state.step, keepdims=False)
        batch, seen = look(state, labels, images, rows)
        own: jax.Array | None = None  # share of its own label that a mixed image keeps
        if phase.mixes:
            alphas = {"mixup": hparams.mixup_alpha, "cutmix": hparams.cutmix_alpha}
            mix_key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MIX_STREAM)
            batch, own = mix(mix_key, batch, {name: alphas[name] for name in phase.mixes})

        def loss_fn(params: Flat, batch_stats: Flat, part: Part) -> tuple[jax.Array, tuple[Flat, Metrics]]:
            plain = merge(params, frozen.params, hparams.lora_scale)
            noise = make_noise(phase, state, hparams, part.places)
            kept = phase.regularisers.outputs(phase.model)
            done = run_network(phase, plain, batch_stats, frozen, part.images, True, kept, *noise)

            def shared(of_targets: Callable[[Targets], jax.Array]) -> jax.Array:
                """Returns the mean over the images of what is said of their targets, soft ones where they are mixed."""
                mean = of_targets(part.own).mean()
                return mean if own is None else own * mean + (1 - own) * of_targets(part.other).mean()

            loss = shared(lambda targets: losses(done.logits, targets.labels, hparams))
            accuracy = shared(lambda targets: jnp.float32(done.logits.argmax(-1) == targets.labels))
            more = regularise(phase, hparams, plain, done, frozen.reference, part.own.rows, shared)
            return loss if more is None else loss + more, (done.batch_stats, Metrics(loss, accuracy))

        gradient = in_parts(jax.grad(loss_fn, has_aux=True), phase.num_parts)
        targets = Targets(seen, rows)
        whole = Part(batch, targets, jax.tree.map(lambda x: x[::-1], targets), jnp.arange(len(rows)))
        grads, (stats, metrics) = gradient(state.params, state.batch_stats, whole)
        if phase.sharpness:  # the second pass leaves the statistics as the first has made them
            point = sam_point(state.params, grads, hparams.sam_radius)
            grads, _ = gradient(point, state.batch_stats, whole)
        updates, opt_state = tx(hparams).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if phase.averaged:
            count = phase.first_step + state.step + 1
            average = running_mean(state.average, (params, stats), hparams.ema_decay, count)
        return State(params, stats, opt_state, state.step + 1, state.key, average), metrics

    def whole_step(
        state: State,
        hparams: HParams,
        labels: jax.Array,
        indices: jax.Array,
        frozen: Frozen,
        images: jax.Array,
    ) -> tuple[State, Metrics]:
        count = indices.shape[1]
        size = min(PIECE, count)
        pieces = jnp.pad(indices[0], (0, -count % size)).reshape(-1, size)
        real = (jnp.arange(pieces.size) < count).reshape(pieces.shape)

        def metrics_of(params: Flat) -> Metrics:
            @jax.checkpoint  # worked out again for the gradient, so that no more than a piece is ever in memory
            def add(total: Metrics, piece: tuple[jax.Array, jax.Array]) -> tuple[Metrics, None]:
                batch, targets = look(state, labels, images, piece[0])
                logits, _ = apply_network(phase, params, state.batch_stats, frozen, batch, train=True)
                real_losses = jnp.where(piece[1], losses(logits, targets, hparams), 0.0)
                correct = (logits.argmax(-1) == targets) & piece[1]
                return Metrics(total.loss + real_losses.sum(), total.accuracy + correct.sum().astype(jnp.float32)), None

            total, _ = jax.lax.scan(add, Metrics(jnp.float32(0), jnp.float32(0)), (pieces, real))
            return Metrics(total.loss / count, total.accuracy / count)

        def objective(params: Flat) -> jax.Array:
            squares = sum(jnp.vdot(leaf, leaf) for name, leaf in params.items() if name in phase.optimizer.decayed)
            return metrics_of(params).loss + hparams.probe_weight_decay / 2 * squares

        value, grads = optax.value_and_grad_from_state(objective)(state.params, state=state.opt_state)
        updates, opt_state = tx(hparams).update(
            grads, state.opt_state, state.params, value=value, grad=grads, value_fn=objective
        )
        params = optax.apply_updates(state.params, updates)
        return State(params, state.batch_stats, opt_state, state.step + 1, state.key), metrics_of(params)

    return whole_step if phase.whole else train_step


def make_noise(
    phase: Phase, state: State, hparams: HParams, places: jax.Array
) -> tuple[dict[str, jax.Array] | None, Callable[[jax.Array], jax.Array]]:
    """Returns, for images at `places` of a batch, factors of residual branches, and what is done to the head's input.

    A batch has one set of factors, and each of its images values of its own that are dropped, so that it does not
    matter in how many parts it is worked through.
    """
    terms, numbers = phase.regularisers, hparams.regularisers
    key = jax.random.fold_in(state.key, phase.first_step + state.step)
    branches, before_head = None, lambda x: x
    if terms.blocks:
        depth_key = jax.random.fold_in(key, DEPTH_STREAM)
        branches = branch_factors(depth_key, phase.model, terms.blocks, numbers["stochastic_depth"])
    if terms.dropout:
        drop_key = jax.random.fold_in(key, DROP_STREAM)

        def before_head(x: jax.Array) -> jax.Array:
            return drop(drop_key, x, numbers["dropout"], places)

    return branches, before_head


def regularise(
    phase: Phase,
    hparams: HParams,
    params: Flat,
    done: Pass,
    reference: Reference | None,
    rows: jax.Array,
    shared: Callable[[Callable[[Targets], jax.Array]], jax.Array],
) -> jax.Array | None:
    """Returns what the regularisers add to the loss of a batch; None where there are none.

    Args:
      params: those of the network, factors of changes merged already.
      rows: [batch] which of the phase's images they are.
      shared: returns the mean over the images of what is said of their targets, soft ones where they are mixed.
    """
    terms, model, numbers = phase.regularisers, phase.model, hparams.regularisers
    if terms == NONE:
        return None

    def source_maps() -> Flat:
        assert reference is not None
        if reference.maps is not None and reference.map_rows is not None:
            at = reference.map_rows[rows]
            return {unit: of_all[at] for unit, of_all in reference.maps.items()}
        variables = {"params": unflatten(reference.params), "batch_stats": unflatten(reference.batch_stats)}
        start = 0 if phase.prefix is None else model.units.index(phase.prefix) + 1
        x, maps = done.entering, {}
        for unit in terms.maps:
            stop = model.units.index(unit)
            maps[unit] = x = model.apply(variables, x, start=model.units[start], stop=unit)
            start = stop + 1
        return maps

    def distilled(logits: jax.Array) -> jax.Array:
        assert reference is not None and reference.logits is not None and reference.logit_rows is not None
        said, said_at = reference.logits, reference.logit_rows
        temperature = numbers["distillation_temperature"]
        return shared(lambda targets: distillation_loss(logits, said[said_at[targets.rows]], temperature))

    return penalty(terms, numbers, model, params, done.outputs, reference, source_maps, distilled)


def cross_entropy(logits: jax.Array, labels: jax.Array, hparams: HParams) -> jax.Array:
    """Returns [n], the loss of each image with smoothed labels (Szegedy et al. 2016, section 7)."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    smooth = one_hot * (1 - hparams.label_smoothing) + hparams.label_smoothing / logits.shape[-1]
    return optax.softmax_cross_entropy(logits, smooth)
