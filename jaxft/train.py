"""Training and evaluating one trial: pure functions of arrays.

Parameters are flat dicts, `{'stage1/block2/conv1/kernel': leaf}`, split in the trainable ones, which the state
holds, and the frozen ones, which are an argument of their own and cost no gradient and no copy.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.adapters import is_adapter, merge
from jaxft.config import FROZEN, LayerRate, Procedure
from jaxft.data.augment import NUM_CROPS, Changes, augment, centre_crop, make_changes, mix, ten_crops, view
from jaxft.data.batches import num_steps
from jaxft.errors import UserError
from jaxft.gradients import in_parts, running_mean, sam_point
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.nn import batch_norm_in_groups
from jaxft.ops.precision import compute_dtype
from jaxft.optim import HParams, Optimizer, go_on_from, make_tx
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
from jaxft.schedules import Schedule

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

    `part` are the steps of the schedule, from one to before the other, that the phase is of; none: all. `num_parts` are
    those that a batch is worked through in; `sharpness` says that SAM's gradient is used, `averaged` that a moving
    average of the weights is what counts. With `remat` a gradient keeps the inputs of units alone, and computes what is
    inside of them again.
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
    part: tuple[int, int] | None = None
    num_parts: int = 1
    sharpness: bool = False
    averaged: bool = False
    regularisers: Regularisers = NONE
    virtual_batch_size: int | None = None
    recalibrates: bool = False
    remat: bool = False

    @property
    def trainable(self) -> tuple[str, ...]:
        """Returns the names of the leaves that train."""
        return tuple(name for name, _ in self.optimizer.groups)

    @property
    def num_steps(self) -> int:
        """Returns the length of the phase."""
        return self.optimizer.schedule.num_steps if self.part is None else self.part[1] - self.part[0]

    @property
    def first_step(self) -> int:
        """Returns the step of the schedule at which the phase begins; later than 0 it goes on from the one before."""
        return 0 if self.part is None else self.part[0]

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
    """What changes in a phase: arrays only. `average` is that of (params, batch_stats), where one is kept."""

    params: Flat
    batch_stats: Flat
    opt_state: Any
    step: jax.Array
    key: jax.Array
    average: tuple[Flat, Flat] | tuple[()] = ()

    @property
    def evaluated(self) -> tuple[Flat, Flat]:
        """Returns the (params, batch_stats) that are evaluated and kept."""
        return self.average or (self.params, self.batch_stats)


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


def make_phases(
    model: Network,
    preprocessing: Preprocessing,
    procedure: Procedure,
    layers: Mapping[str, Match[LayerRate]],
    batch_stats: Sequence[str],
    num_train: int,
    remat: bool = False,
) -> tuple[Phase, ...]:
    """Returns the phases of a procedure: the head alone, where it is probed first, then all that is not frozen.

    With gradual unfreezing (Howard & Ruder 2018, section 3.3, there a layer an epoch) the second is several, each with
    a stage more than the one before; they share the schedule and go on from each other.

    Args:
      layers: what the procedure's rules say of each parameter.
      batch_stats: names of the network's batch-norm statistics.
      num_train: images a pass.
      remat: whether the insides of units are computed again for the gradient.
    """

    depth_of = unit_depths(model, layers)

    def steps(epochs: float) -> int:
        return num_steps(num_train, epochs, procedure.batch_size)

    def phase(
        trained: Mapping[str, str],
        schedule: Schedule,
        part: tuple[int, int] | None = None,
        joined: Mapping[str, int] | None = None,
        probe: bool = False,
    ) -> Phase:
        whole = probe and procedure.probe_optimizer == "lbfgs"
        prefix = frozen_prefix(model, trained)
        live = model.units[model.units.index(prefix) + 1 :] if prefix else model.units
        tracked = [name for name in batch_stats if unit_of(name, model.units) in live]
        optimizer = Optimizer(
            "lbfgs" if whole else procedure.optimizer,
            procedure.nesterov,
            schedule,
            tuple(sorted(trained.items())),
            tuple((name, depth_of[name]) for name in sorted(trained)),
            probe,
            tuple((name, step) for name, step in sorted((joined or {}).items()) if step),
            procedure.clip_norm > 0 and not whole,
        )
        return Phase(
            model,
            preprocessing,
            optimizer,
            prefix,
            tuple(tracked) if procedure.batch_norm != FROZEN else (),
            num_train * max(procedure.views, 1) if whole else procedure.batch_size,
            make_changes(procedure),
            procedure.views,
            mixes=("mixup",) * (procedure.mixup_alpha > 0) + ("cutmix",) * (procedure.cutmix_alpha > 0),
            weighted=procedure.loss_weighting != "none",
            part=part,
            num_parts=1 if whole else procedure.accumulate,
            sharpness=procedure.sam_radius > 0 and not whole,
            averaged=procedure.ema_decay > 0 and not whole,
            regularisers=NONE if probe else make_regularisers(model, procedure, tuple(layers), trained, prefix),
            virtual_batch_size=procedure.virtual_batch_size,
            recalibrates=procedure.batch_norm == "recalibrated" and bool(tracked),
            remat=remat and not whole,
        )

    trained = {name: match.pattern for name, match in layers.items() if match.value != FROZEN}
    phases = []
    if procedure.probe_epochs:
        head = {name: pattern for name, pattern in trained.items() if unit_of(name, model.units) == model.units[-1]}
        if head:  # which a rule may have frozen
            shape, length = procedure.schedule, steps(procedure.probe_epochs)
            if procedure.probe_optimizer == "lbfgs":
                shape, length = "constant", round(procedure.probe_epochs)
            decays = tuple(map(steps, procedure.decay_epochs)) or procedure.decay_steps
            schedule = Schedule(shape, length, 0, decays if shape == "step" else ())
            phases.append(phase(head, schedule, probe=True))
    if procedure.epochs or procedure.steps:
        schedule = main_schedule(procedure, steps)
        if not procedure.unfreeze_epochs:
            return (*phases, phase(trained, schedule))
        stages = stages_of(model, trained)
        moments = (0, *map(steps, procedure.unfreeze_epochs), schedule.num_steps)
        _check_unfreezing(procedure, stages, moments)
        joined: dict[str, int] = {}
        for i, (begin, end) in enumerate(itertools.pairwise(moments)):
            last = end == schedule.num_steps
            joined |= {name: begin for stage in (stages[i:] if last else stages[i : i + 1]) for name in stage}
            some = {name: trained[name] for name in joined}
            phases.append(phase(some, schedule, (begin, end), joined))
    return tuple(phases)


def main_schedule(procedure: Procedure, steps: Callable[[float], int]) -> Schedule:
    """Returns the schedule of all that follows the probe; `steps` says how many steps so many passes are.

    Raises a `UserError` where a warm-up or a decay that is given in steps is not within it.
    """
    length = procedure.steps or steps(procedure.epochs)
    warmup = procedure.warmup_steps or steps(procedure.warmup_epochs)
    decays = procedure.decay_steps or tuple(map(steps, procedure.decay_epochs))
    decays = decays if procedure.schedule == "step" else ()
    in_steps = bool(procedure.steps or procedure.warmup_steps or procedure.decay_steps)
    for name, at in (("warmup", warmup), *(("decay", at) for at in decays)):
        if in_steps and length and at >= length:
            raise UserError(
                f"config field 'procedure.{name}_steps', or {name}_epochs, comes to step {at}, "
                f"but there are {length} steps; it must be before the end."
            )
    return Schedule(procedure.schedule, length, warmup, decays)


def unit_depths(model: Network, names: Iterable[str]) -> dict[str, int]:
    """Returns of each parameter how far its unit is below the head, counting units that have parameters."""
    names = list(names)
    with_parameters = {unit_of(name, model.units) for name in names}
    depth_of = {unit: i for i, unit in enumerate(unit for unit in reversed(model.units) if unit in with_parameters)}
    return {name: depth_of[unit_of(name, model.units)] for name in names}


def stages_of(model: Network, trained: Iterable[str]) -> list[list[str]]:
    """Returns the leaves that train by stage, from the head down; a stage is units that share the first part of a name.

    A stage of which nothing trains is left out.
    """
    stages: dict[str, list[str]] = {unit.partition("/")[0]: [] for unit in reversed(model.units)}
    for name in trained:
        stages[unit_of(name, model.units).partition("/")[0]].append(name)
    return [names for names in stages.values() if names]


def _check_unfreezing(procedure: Procedure, stages: Sequence[Sequence[str]], moments: Sequence[int]) -> None:
    given = list(procedure.unfreeze_epochs)
    if len(given) >= len(stages):
        raise UserError(
            f"config field 'procedure.unfreeze_epochs' is {given}, but after the first there "
            f"{'is' if len(stages) == 2 else 'are'} {len(stages) - 1} stage{'s' * (len(stages) != 2)} to let in; "
            "give no more than that."
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
        raise UserError(
            f"config field 'procedure.unfreeze_epochs' is {given}, which are steps {list(moments[1:-1])} of "
            f"{moments[-1]}; each must be a step later than the one before, and before the end."
        )


def frozen_prefix(model: Network, trained: Mapping[str, str]) -> str | None:
    """Returns the last of the leading units none of whose leaves train, or None where the first one trains."""
    live = {unit_of(name, model.units) for name in trained}
    first = next((i for i, unit in enumerate(model.units) if unit in live), len(model.units))
    return model.units[first - 1] if first else None


def split_variables(
    phase: Phase, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[Flat, Flat, Frozen]:
    """Returns (trainable parameters, tracked statistics, all the rest) of whole flat variables.

    Factors of changes that do not train yet are left out: they change nothing (`jaxft.adapters`).
    """
    live = {name: params[name] for name in phase.trainable}
    tracked = {name: batch_stats[name] for name in phase.tracked}
    rest = Frozen(
        {name: leaf for name, leaf in params.items() if name not in live and not is_adapter(name)},
        {name: leaf for name, leaf in batch_stats.items() if name not in tracked},
    )
    return live, tracked, rest


def init_state(phase: Phase, params: Flat, batch_stats: Flat, hparams: HParams, key: jax.Array) -> State:
    """Returns the state at the start of a phase, from its trainable parameters and tracked statistics."""
    opt_state = make_tx(phase.optimizer)(hparams).init(params)
    average = jax.tree.map(jnp.zeros_like, (params, batch_stats)) if phase.averaged else ()  # zeros do not count
    return State(params, batch_stats, opt_state, jnp.int32(0), key, average)


def continue_state(old: State, new: State) -> State:
    """Returns the state `new` of a phase in which more leaves train, going on from the end of the phase before.

    Leaves that trained there keep their momentum and their average; what joins has rested so far, and so has its own.
    """
    average = new.average
    if old.average and new.average:
        rested = jax.tree.map(jnp.copy, (new.params, new.batch_stats))  # the state's own are given up to the steps
        average = rested[0] | old.average[0], rested[1] | old.average[1]
    return new._replace(opt_state=go_on_from(old.opt_state, new.opt_state), average=average)


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

    Of `params` factors of changes are merged already (`jaxft.adapters`). In training these are those of `batch_stats`.
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

    def apply(variables: Any, x: jax.Array, start: str, stop: str) -> tuple[jax.Array, Any]:
        if not (train and batch_stats):
            return model.apply(variables, x, start=start, stop=stop), {}
        with batch_norm_in_groups(group_size):
            x, updated = model.apply(variables, x, train=True, start=start, stop=stop, mutable=["batch_stats"])
        return x, updated["batch_stats"]

    def run(x: jax.Array, start: str, stop: str) -> jax.Array:
        nonlocal stats
        first, last, dtype = model.units.index(start), model.units.index(stop), x.dtype
        is_kept = train and isinstance(phase, Phase) and phase.remat
        stretches = [(unit, unit) for unit in model.units[first : last + 1]] if is_kept else [(start, stop)]
        x = x.astype(compute_dtype(model.precision, dtype))
        for begin, end in stretches:
            of_units: Callable[..., Any] = functools.partial(apply, start=begin, stop=end)
            if is_kept:
                of_units = rematerialized(of_units)
            x, updated = of_units(variables | {"batch_stats": unflatten(stats)}, x)
            stats = stats | flatten(updated)
        return x.astype(dtype)

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


def rematerialized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` of arrays, of which a gradient keeps the arguments alone (Chen et al. 2016, section 3).

    It is computed again after what follows it has its gradient, on which the last argument is made to depend: XLA on a
    CPU drops the barriers with which `jax.checkpoint` says so, and may then compute everything at once.
    """

    @jax.custom_vjp
    def run(*args: Any) -> Any:
        return function(*args)

    def backward(args: Any, cotangents: Any) -> Any:
        after = next(leaf for leaf in jax.tree.leaves(cotangents) if leaf.size and leaf.dtype != jax.dtypes.float0)
        *first, x = args
        return jax.vjp(function, *first, x + 0 * after.ravel()[0].astype(x.dtype))[1](cotangents)

    run.defvjp(lambda *args: (function(*args), args), backward)
    return run


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


def is_finite(params: Flat, batch_stats: Flat) -> jax.Array:
    """Returns a boolean scalar: whether every parameter and every statistic of a network is a finite number.

    The loss does not tell: XLA on a CPU compiles a ReLU followed by a pool so that NaN becomes a finite number.
    """
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((params, batch_stats))]).all()


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
