"""Training and evaluating one trial: pure functions of arrays.

Parameters are flat dicts, `{'stage1/block2/conv1/kernel': leaf}`, split in the trainable ones, which the state
holds, and the frozen ones, which are an argument of their own and cost no gradient and no copy.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config import FROZEN, LayerRate, Procedure
from jaxft.data.augment import NUM_CROPS, Changes, augment, centre_crop, make_changes, mix, ten_crops, view
from jaxft.data.batches import num_steps
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.nn import batch_norm_in_groups
from jaxft.optim import HParams, Optimizer, Schedule, make_tx
from jaxft.paths import Match, flatten, unflatten
from jaxft.regularisers import (
    Reference,
    Regularisers,
    branch_factors,
    distillation_loss,
    drop,
    make_regularisers,
    penalty,
)

Flat = dict[str, jax.Array]
PIECE = 256  # images of a step over all of them that are worked out at a time
MIX_STREAM = 3  # beside the numbers of the streams in `data.augment.augment`
DROP_STREAM, DEPTH_STREAM = 4, 5
NONE = Regularisers()


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one compiled program: everything that is static in it.

    `prefix` is the last unit of the frozen prefix, which runs without gradient and with its statistics frozen.
    `tracked` are the batch-norm statistics that move. With `views`, an image's index says which of its views is meant
    (`data.augment.view`). `mixes` are the ways in which the images of a batch are mixed (`data.augment.mix`);
    `weighted` says that classes weigh differently in the loss. `from_features` says that the images are what the
    prefix made of them already. With lbfgs the batch is all images and views, at every step. Batch norm normalises
    groups of `virtual_batch_size` images; `recalibrates` says that tracked statistics are replaced at the end.
    """

    model: Network
    preprocessing: Preprocessing
    optimizer: Optimizer
    prefix: str | None
    tracked: tuple[str, ...]
    batch_size: int
    changes: Changes
    views: int = 0
    from_features: bool = False
    mixes: tuple[str, ...] = ()
    weighted: bool = False
    regularisers: Regularisers = NONE
    virtual_batch_size: int | None = None
    recalibrates: bool = False

    @property
    def trainable(self) -> tuple[str, ...]:
        """Returns the names of the leaves that train."""
        return tuple(name for name, _ in self.optimizer.groups)

    @property
    def num_steps(self) -> int:
        """Returns the length of the phase."""
        return self.optimizer.schedule.num_steps

    @property
    def changes_images(self) -> bool:
        """Tells whether chance decides what an image looks like."""
        return not self.changes.is_none or bool(self.mixes)

    @property
    def keeps_prefix(self) -> bool:
        """Tells whether the frozen prefix says the same of an image at every step, so that it can be kept."""
        return self.prefix is not None and (self.views > 0 or not self.changes_images)

    @property
    def head_only(self) -> bool:
        """Tells whether nothing is computed but the head."""
        return self.from_features and self.prefix in self.model.units[-2:]

    @property
    def heads_of_features(self) -> bool:
        """Tells whether nothing will be computed but the head, step by step, of what is kept."""
        return self.keeps_prefix and self.prefix in self.model.units[-2:] and not self.whole

    @property
    def evaluated(self) -> "Evaluated":
        """Returns what of the phase matters to its evaluation."""
        return Evaluated(self.model, self.preprocessing, self.prefix, self.from_features)

    @property
    def whole(self) -> bool:
        """Tells whether every step is over all images."""
        return self.optimizer.kind == "lbfgs"


@dataclass(frozen=True)
class Evaluated:
    """What is static in an evaluation, whatever the training; the first fields are those of `Phase`.

    `crops` are what is looked at of images that are larger than the network's: 'centre', or 'ten'.
    """

    model: Network
    preprocessing: Preprocessing
    prefix: str | None
    from_features: bool
    crops: str = "centre"


class Frozen(NamedTuple):
    """What does not change in a phase; shared by all trials that run side by side.

    `reference` is what regularisers need of the source, where they need anything.
    """

    params: Flat
    batch_stats: Flat
    reference: Reference | None = None


class State(NamedTuple):
    """What changes in a phase: arrays only."""

    params: Flat
    batch_stats: Flat
    opt_state: Any
    step: jax.Array
    key: jax.Array


class Metrics(NamedTuple):
    """Mean loss and accuracy of a batch."""

    loss: jax.Array
    accuracy: jax.Array


def make_phases(
    model: Network,
    preprocessing: Preprocessing,
    procedure: Procedure,
    layers: Mapping[str, Match[LayerRate]],
    batch_stats: Sequence[str],
    num_train: int,
) -> tuple[Phase, ...]:
    """Returns the phases of a procedure: the head alone, where it is probed first, then all that is not frozen.

    Args:
      layers: what the procedure's rules say of each parameter.
      batch_stats: names of the network's batch-norm statistics.
      num_train: images a pass.
    """

    with_parameters = {unit_of(name, model.units) for name in layers}
    below_head = {unit: i for i, unit in enumerate(unit for unit in reversed(model.units) if unit in with_parameters)}

    def phase(trained: Mapping[str, str], epochs: float, warmup_epochs: float, probe: bool = False) -> Phase:
        def steps(of_epochs: float) -> int:
            return num_steps(num_train, of_epochs, procedure.batch_size)

        kind: str = procedure.optimizer
        batch_size = procedure.batch_size
        schedule = Schedule(
            procedure.schedule,
            steps(epochs),
            steps(warmup_epochs),
            tuple(steps(at) for at in procedure.decay_epochs) if procedure.schedule == "step" else (),
        )
        if probe and procedure.probe_optimizer == "lbfgs":
            kind, batch_size = "lbfgs", num_train * max(procedure.views, 1)
            schedule = Schedule("constant", round(epochs))
        depths = tuple((name, below_head[unit_of(name, model.units)]) for name in sorted(trained))
        prefix = frozen_prefix(model, trained)
        live = model.units[model.units.index(prefix) + 1 :] if prefix else model.units
        tracked = [name for name in batch_stats if unit_of(name, model.units) in live]
        return Phase(
            model,
            preprocessing,
            Optimizer(kind, procedure.nesterov, schedule, tuple(sorted(trained.items())), depths, probe),
            prefix,
            tuple(tracked) if procedure.batch_norm != FROZEN else (),
            batch_size,
            make_changes(procedure),
            procedure.views,
            mixes=("mixup",) * (procedure.mixup_alpha > 0) + ("cutmix",) * (procedure.cutmix_alpha > 0),
            weighted=procedure.loss_weighting != "none",
            regularisers=NONE if probe else make_regularisers(model, procedure, tuple(layers), trained, prefix),
            virtual_batch_size=procedure.virtual_batch_size,
            recalibrates=procedure.batch_norm == "recalibrated" and bool(tracked),
        )

    trained = {name: match.pattern for name, match in layers.items() if match.value != FROZEN}
    phases = []
    if procedure.probe_epochs:
        head = {name: pattern for name, pattern in trained.items() if unit_of(name, model.units) == model.units[-1]}
        if head:  # which a rule may have frozen
            phases.append(phase(head, procedure.probe_epochs, 0.0, probe=True))
    if procedure.epochs:
        phases.append(phase(trained, procedure.epochs, procedure.warmup_epochs))
    return tuple(phases)


def frozen_prefix(model: Network, trained: Mapping[str, str]) -> str | None:
    """Returns the last of the leading units none of whose leaves train, or None where the first one trains."""
    live = {unit_of(name, model.units) for name in trained}
    first = next((i for i, unit in enumerate(model.units) if unit in live), len(model.units))
    return model.units[first - 1] if first else None


def split_variables(
    phase: Phase, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[Flat, Flat, Frozen]:
    """Returns (trainable parameters, tracked statistics, all the rest) of whole flat variables."""
    live = {name: params[name] for name in phase.trainable}
    tracked = {name: batch_stats[name] for name in phase.tracked}
    rest = Frozen(
        {name: leaf for name, leaf in params.items() if name not in live},
        {name: leaf for name, leaf in batch_stats.items() if name not in tracked},
    )
    return live, tracked, rest


def init_state(phase: Phase, params: Flat, batch_stats: Flat, hparams: HParams, key: jax.Array) -> State:
    """Returns the state at the start of a phase, from its trainable parameters and tracked statistics."""
    opt_state = make_tx(phase.optimizer)(hparams).init(params)
    return State(params, batch_stats, opt_state, jnp.int32(0), key)


class Pass(NamedTuple):
    """A pass through the network.

    Logits [n, classes]; the tracked statistics after it; what entered the first unit above the frozen prefix; the
    outputs of the units that were asked for.
    """

    logits: jax.Array
    batch_stats: Flat
    entering: jax.Array
    outputs: Flat


def apply_network(
    phase: Phase | Evaluated, params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array, train: bool
) -> tuple[jax.Array, Flat]:
    """Returns logits [n, classes] for `images: [n, h, w, 3]` in 0 to 255, and the tracked statistics after them.

    In training these are those of `batch_stats`.
    """
    done = run_network(phase, params, batch_stats, frozen, images, train)
    return done.logits, done.batch_stats


def run_network(
    phase: Phase | Evaluated,
    params: Flat,
    batch_stats: Flat,
    frozen: Frozen,
    images: jax.Array,
    train: bool,
    keep: Sequence[str] = (),
    branches: Mapping[str, jax.Array] | None = None,
    before_head: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Pass:
    """Returns what `apply_network` does, and more.

    Args:
      keep: units whose outputs are wanted too.
      branches: factors of residual branches, by block.
      before_head: what is done to the output of the unit below the head, where that is among `keep`.
    """
    model = phase.model
    x, start, stats = enter_network(phase, batch_stats, frozen, images)
    entering, outputs = x, {}
    if start is None:
        return Pass(x, batch_stats, x, {})
    variables = {"params": unflatten(frozen.params | params)}
    if branches:
        variables["branches"] = unflatten({f"{block}/factor": factor for block, factor in branches.items()})
    group_size = phase.virtual_batch_size if isinstance(phase, Phase) else None

    def run(x: jax.Array, start: str, stop: str) -> jax.Array:
        nonlocal stats
        now = variables | {"batch_stats": unflatten(stats)}
        if not (train and batch_stats):
            return model.apply(now, x, start=start, stop=stop)
        with batch_norm_in_groups(group_size):
            x, updated = model.apply(now, x, train=True, start=start, stop=stop, mutable=["batch_stats"])
        stats = stats | flatten(updated["batch_stats"])
        return x

    units, head = model.units, model.units[-1]
    if start == head and units[-2] in keep:
        outputs[units[-2]] = x
    for unit in units[units.index(start) : -1]:
        if unit in keep:
            outputs[unit] = x = run(x, start, unit)
            start = units[units.index(unit) + 1]
    logits = run(before_head(x) if units[-2] in keep else x, start, head)
    return Pass(logits, {name: stats[name] for name in batch_stats}, entering, outputs)


def enter_network(
    phase: Phase | Evaluated, batch_stats: Flat, frozen: Frozen, images: jax.Array
) -> tuple[jax.Array, str | None, Flat]:
    """Returns what enters the first unit above the frozen prefix, that unit (none: there is none), all statistics."""
    model = phase.model
    x = images if phase.from_features else phase.preprocessing.apply(images)
    stats = frozen.batch_stats | batch_stats
    if phase.prefix is None:
        return x, model.units[0], stats
    if not phase.from_features:
        fixed = {"params": unflatten(frozen.params), "batch_stats": unflatten(stats)}
        x = jax.lax.stop_gradient(model.apply(fixed, x, stop=phase.prefix))
    above = model.units[model.units.index(phase.prefix) + 1 :]
    return x, above[0] if above else None, stats


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
        batch, targets = look(state, labels, images, rows)
        own: jax.Array | None = None  # share of its own label that a mixed image keeps
        if phase.mixes:
            alphas = {"mixup": hparams.mixup_alpha, "cutmix": hparams.cutmix_alpha}
            mix_key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), MIX_STREAM)
            batch, own = mix(mix_key, batch, {name: alphas[name] for name in phase.mixes})

        def shared(of_label: Callable[[jax.Array], jax.Array], targets: jax.Array = targets) -> jax.Array:
            """Returns the mean over the images of what is said of their labels, soft ones where they are mixed."""
            mean = of_label(targets).mean()
            return mean if own is None else own * mean + (1 - own) * of_label(targets[::-1]).mean()

        def loss_fn(params: Flat) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Flat]]:
            noise = make_noise(phase, state, hparams)
            kept = phase.regularisers.outputs(phase.model)
            done = run_network(phase, params, state.batch_stats, frozen, batch, True, kept, *noise)
            loss = shared(lambda labels: losses(done.logits, labels, hparams))
            more = regularise(phase, hparams, params, done, frozen.reference, rows, shared)
            return loss if more is None else loss + more, (loss, done.logits, done.batch_stats)

        (_, (loss, logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx(hparams).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        accuracy = shared(lambda labels: logits.argmax(-1) == labels)
        return State(params, stats, opt_state, state.step + 1, state.key), Metrics(loss, accuracy)

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
                return Metrics(total.loss + real_losses.sum(), total.accuracy + correct.sum()), None

            total, _ = jax.lax.scan(add, Metrics(jnp.zeros(()), jnp.zeros(())), (pieces, real))
            return Metrics(total.loss / count, total.accuracy / count)

        def objective(params: Flat) -> jax.Array:
            squares = sum(jnp.vdot(leaf, leaf) for name, leaf in params.items() if name.endswith("kernel"))
            return metrics_of(params).loss + hparams.probe_weight_decay / 2 * squares

        value, grads = optax.value_and_grad_from_state(objective)(state.params, state=state.opt_state)
        updates, opt_state = tx(hparams).update(
            grads, state.opt_state, state.params, value=value, grad=grads, value_fn=objective
        )
        params = optax.apply_updates(state.params, updates)
        return State(params, state.batch_stats, opt_state, state.step + 1, state.key), metrics_of(params)

    return whole_step if phase.whole else train_step


def make_noise(
    phase: Phase, state: State, hparams: HParams
) -> tuple[dict[str, jax.Array] | None, Callable[[jax.Array], jax.Array]]:
    """Returns, for a step, the factors of residual branches by block, and what is done to what enters the head."""
    terms, numbers = phase.regularisers, hparams.regularisers
    key = jax.random.fold_in(state.key, state.step)
    branches, before_head = None, lambda x: x
    if terms.blocks:
        depth_key = jax.random.fold_in(key, DEPTH_STREAM)
        branches = branch_factors(depth_key, phase.model, terms.blocks, numbers["stochastic_depth"])
    if terms.dropout:
        drop_key = jax.random.fold_in(key, DROP_STREAM)

        def before_head(x: jax.Array) -> jax.Array:
            return drop(drop_key, x, numbers["dropout"])

    return branches, before_head


def regularise(
    phase: Phase,
    hparams: HParams,
    params: Flat,
    done: Pass,
    reference: Reference | None,
    rows: jax.Array,
    shared: Callable[..., jax.Array],
) -> jax.Array | None:
    """Returns what the regularisers add to a batch's loss; None where there are none.

    Args:
      rows: [batch] rows of the images.
      shared: `shared(of_label, targets)` returns the mean of `of_label(targets)`, soft targets where images are mixed.
    """
    terms, model = phase.regularisers, phase.model
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
        recorded = reference.logits[reference.logit_rows[rows]]
        temperature = hparams.regularisers["distillation_temperature"]
        return shared(lambda said: distillation_loss(logits, said, temperature), recorded)

    numbers = hparams.regularisers
    return penalty(terms, numbers, model, params, done.outputs, reference, source_maps, distilled)


def cross_entropy(logits: jax.Array, labels: jax.Array, hparams: HParams) -> jax.Array:
    """Returns [n], the loss of each image with smoothed labels (Szegedy et al. 2016, section 7)."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    smooth = one_hot * (1 - hparams.label_smoothing) + hparams.label_smoothing / logits.shape[-1]
    return optax.softmax_cross_entropy(logits, smooth)


class Evaluation(NamedTuple):
    """Sums over the images of a batch that are no padding, and each image's predicted class."""

    loss: jax.Array
    correct: jax.Array
    predictions: jax.Array


@functools.cache
def make_eval_step(network: Evaluated) -> Callable[..., Evaluation]:
    """Returns `eval_step(params, batch_stats, labels, rows, mask, frozen, images) -> Evaluation`.

    rows: [1, batch] int32, mask: [1, batch] bool, false for padding. Statistics are the running ones. Of ten crops the
    mean of the probabilities counts (Krizhevsky et al. 2012, section 4.1).
    """
    size_px = network.preprocessing.size_px

    def log_shares(params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array) -> jax.Array:
        if network.crops == "ten":
            crops = ten_crops(images, size_px).reshape(-1, size_px, size_px, images.shape[-1])
            logits, _ = apply_network(network, params, batch_stats, frozen, crops, train=False)
            of_crops = jax.nn.log_softmax(logits).reshape(len(images), NUM_CROPS, -1)
            return jax.nn.logsumexp(of_crops, axis=1) - jnp.log(NUM_CROPS)
        seen = images if network.from_features else centre_crop(images, size_px)
        return apply_network(network, params, batch_stats, frozen, seen, train=False)[0]

    def eval_step(
        params: Flat,
        batch_stats: Flat,
        labels: jax.Array,
        rows: jax.Array,
        mask: jax.Array,
        frozen: Frozen,
        images: jax.Array,
    ) -> Evaluation:
        rows, mask = rows[0], mask[0]
        logits = log_shares(params, batch_stats, frozen, images[rows])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        predictions = logits.argmax(-1)
        correct = (predictions == labels[rows]) & mask
        return Evaluation(jnp.where(mask, losses, 0.0).sum(), correct.sum(), predictions)

    return eval_step


@functools.cache
def make_moments_step(network: Evaluated) -> Callable[..., Flat]:
    """Returns `moments_step(params, batch_stats, rows, frozen, images)`, what enters each batch norm above the prefix.

    rows: [1, batch] int32. `{'stem/bn/mean': [features], 'stem/bn/var': biased, 'stem/bn/places': of an image}`; what
    lies below is normalised by the batch's own statistics.
    """

    def moments_step(params: Flat, batch_stats: Flat, rows: jax.Array, frozen: Frozen, images: jax.Array) -> Flat:
        batch = images[rows[0]]
        seen = batch if network.from_features else centre_crop(batch, network.preprocessing.size_px)
        x, start, stats = enter_network(network, batch_stats, frozen, seen)
        variables = {"params": unflatten(frozen.params | params), "batch_stats": unflatten(stats)}
        _, found = network.model.apply(variables, x, train=True, start=start, mutable=["batch_stats", "moments"])
        return {name: jnp.asarray(value) for name, value in flatten(found["moments"]).items()}

    return moments_step


def pool_moments(moments: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns running statistics [..., features] from the moments of batches of so many images, of all of them.

    The mean, and the variance by the law of total variance, unbiased (n - 1) as running ones are.
    """
    shares = np.array(sizes, np.float64) / sum(sizes)

    def mean(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.tensordot(shares, np.stack(values), axes=1)

    found = {}
    for name in (name for name in moments[0] if name.endswith("/mean")):
        layer = name.removesuffix("mean")
        means = [of[name].astype(np.float64) for of in moments]
        total = mean(means)
        var = mean([of[layer + "var"] + np.square(own - total) for of, own in zip(moments, means)])
        count = float(np.ravel(moments[0][layer + "places"])[0]) * sum(sizes)
        found[name] = total.astype(np.float32)
        found[layer + "var"] = (var * count / max(count - 1, 1)).astype(np.float32)
    return found


def mean_per_class(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the mean over the classes of `labels: [n]` of the share of each class's images that are predicted right.

    Every class counts as much, however many images it has; nan where there are none.
    """
    if not len(labels):
        return float("nan")
    _, of_image, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(of_image, weights=predictions == labels) / counts).mean())
