"""Training steps, layer rules and evaluation: numbers by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import draw_variables

import jaxft
from jaxft.config import Training
from jaxft.core import paths
from jaxft.data.augmentation.mixing import mix
from jaxft.models import Preprocessing, create_model
from jaxft.training.batch import MIX_STREAM
from jaxft.training.evaluation import make_eval_step
from jaxft.training.forward import apply_network
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.optimizers import make_tx
from jaxft.training.phases import make_phases
from jaxft.training.schedules import Schedule
from jaxft.training.state import Frozen, State, init_state, split_variables
from jaxft.training.step import make_train_step

SIZE = 8
PLAIN = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
MODEL = create_model("toy", num_classes=3)


class Trial:
    """One trial of `MODEL` on random images, ready to step."""

    def __init__(self, num_train=12, **fields):
        fields = {
            "initialization.start": "random",
            "schedule.epochs": 2.0,
            "batches.size": 6,
            "schedule.shape": "constant",
            **fields,
        }
        self.training = Training.of({**fields})
        variables = draw_variables(MODEL, SIZE)
        self.params, self.stats = paths.flatten(variables["params"]), paths.flatten(variables["batch_stats"])
        self.layers = resolve_layers(self.training, MODEL, self.params)
        self.phases = make_phases(MODEL, PLAIN, self.training, self.layers, tuple(self.stats), num_train)
        self.phase = self.phases[-1]
        self.hparams = make_hparams(self.training, self.layers)
        rng = np.random.default_rng(0)
        self.images = jnp.asarray(rng.integers(0, 256, (num_train, SIZE, SIZE, 3)), jnp.uint8)
        self.labels = jnp.asarray(rng.integers(0, 3, num_train), jnp.int32)
        self.indices = jnp.asarray(rng.permutation(num_train)[: 2 * 6].reshape(2, 6), jnp.int32)

    def start(self, phase=None):
        blocks_above_prefix, tracked, frozen = split_variables(phase or self.phase, self.params, self.stats)
        return init_state(
            phase or self.phase, blocks_above_prefix, tracked, self.hparams, jax.random.PRNGKey(1)
        ), frozen

    def step(self, state, frozen, phase=None):
        step = jax.jit(make_train_step(phase or self.phase))
        return step(state, self.hparams, self.labels, self.indices, frozen, self.images)

    def gradients(self):
        """Returns the gradients of every parameter for the first batch, by plain autodiff of the whole network."""
        rows = self.indices[0]

        def loss(params):
            variables = {"params": paths.unflatten(params), "batch_stats": paths.unflatten(self.stats)}
            x = PLAIN.apply(self.images[rows])
            logits, _ = MODEL.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, self.labels[rows]).mean()

        return jax.jit(jax.grad(loss))(self.params)


def test_every_leaf_changes_according_to_its_rule():
    """With plain SGD the first update of a leaf is minus its multiplier times the learning rate times its gradient."""
    trial = Trial(
        **{
            "optimizer.learning_rate": 0.5,
            "layers.backbone_learning_rate": 0.05,
            "optimizer.momentum": 0.0,
            "layers.rates": (("stage1/.*/kernel", 0.02), ("stage2/block1/bn1/.*", 3.0)),
        },
    )
    state, frozen = trial.start()
    after, _ = trial.step(state, frozen)
    rates = {"stage1": 0.5 * 0.02, "stage2/block1/bn1": 0.5 * 3, "head": 0.5}
    for name, gradient in trial.gradients().items():
        if name.startswith("stage1") and not name.endswith("kernel"):
            rate = 0.05
        else:
            rate = next((rate for start, rate in rates.items() if name.startswith(start)), 0.05)
        moved = np.asarray(after.params[name] - trial.params[name])
        np.testing.assert_allclose(moved, -rate * gradient, rtol=2e-3, atol=2e-6 * rate, err_msg=name)


def test_frozen_leaves_are_not_in_the_state_and_their_statistics_are_frozen():
    trial = Trial(**{"layers.backbone_learning_rate": "frozen"})
    assert trial.phase.prefix == "pool" and trial.phase.tracked == ()
    assert set(trial.phase.trainable) == {"head/kernel", "head/bias"}
    state, frozen = trial.start()
    after, _ = trial.step(state, frozen)
    assert set(after.params) == {"head/kernel", "head/bias"} and after.batch_stats == {}
    # Optimizer state: the momentum of two leaves, and at most two counters of the schedule.
    assert sum(leaf.size for leaf in jax.tree.leaves(after.opt_state)) <= 8 * 3 + 3 + 2


def test_a_head_step_by_hand():
    """With a frozen backbone, the gradient of the head kernel is features^T (softmax - one hot) / n."""
    trial = Trial(
        **{"layers.backbone_learning_rate": "frozen", "optimizer.learning_rate": 0.1, "optimizer.momentum": 0.0}
    )
    state, frozen = trial.start()
    after, metrics = trial.step(state, frozen)
    rows = trial.indices[0]
    variables = {"params": paths.unflatten(trial.params), "batch_stats": paths.unflatten(trial.stats)}
    features = np.asarray(MODEL.apply(variables, PLAIN.apply(trial.images[rows]), stop="stage2/block1"), np.float64)
    features = features.mean((1, 2))
    logits = features @ np.asarray(trial.params["head/kernel"], np.float64) + np.asarray(trial.params["head/bias"])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one_hot = np.eye(3)[np.asarray(trial.labels[rows])]
    loss = -np.log((probabilities * one_hot).sum(1)).mean()
    assert float(metrics.loss) == pytest.approx(loss, rel=1e-5)
    assert float(metrics.accuracy) == pytest.approx((logits.argmax(1) == one_hot.argmax(1)).mean())
    expected = np.asarray(trial.params["head/kernel"]) - 0.1 * features.T @ (probabilities - one_hot) / 6
    np.testing.assert_allclose(after.params["head/kernel"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_frozen_prefix_does_not_change_gradients_above_it():
    """With frozen statistics, cutting the network at the prefix changes no gradient above it."""
    rules = (("stem/.*|stage1/.*", "frozen"),)
    cut = Trial(
        **{
            "layers.rates": rules,
            "batch_norm.statistics": "frozen",
            "optimizer.momentum": 0.0,
            "optimizer.learning_rate": 1.0,
        }
    )
    whole = Trial(**{"batch_norm.statistics": "frozen", "optimizer.momentum": 0.0, "optimizer.learning_rate": 1.0})
    assert cut.phase.prefix == "stage1/block1" and whole.phase.prefix is None
    after_cut, _ = cut.step(*cut.start())
    after_whole, _ = whole.step(*whole.start())
    for name in after_cut.params:
        np.testing.assert_allclose(after_cut.params[name], after_whole.params[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_statistics_are_tracked_above_the_prefix_or_frozen():
    rules = (("stem/.*|stage1/.*", "frozen"),)
    tracked = Trial(**{"layers.rates": rules})
    state, frozen = tracked.start()
    after, _ = tracked.step(state, frozen)
    assert {name.split("/")[0] for name in after.batch_stats} == {"stage2"}
    assert all((after.batch_stats[name] != tracked.stats[name]).any() for name in after.batch_stats)
    frozen_for_evaluation = Trial(**{"batch_norm.statistics": "frozen"})
    assert frozen_for_evaluation.phase.tracked == () and frozen_for_evaluation.phase.prefix is None
    state, frozen = frozen_for_evaluation.start()
    after, _ = frozen_for_evaluation.step(state, frozen)
    assert after.batch_stats == {} and set(frozen.batch_stats) == set(frozen_for_evaluation.stats)


@pytest.mark.slow
def test_frozen_middle_blocks_are_not_a_prefix():
    trial = Trial(**{"layers.rates": (("stage1/.*", "frozen"),)})
    assert trial.phase.prefix is None and not any(name.startswith("stage1") for name in trial.phase.trainable)
    state, frozen = trial.start()
    after, _ = trial.step(state, frozen)
    assert (after.params["stem/conv/kernel"] != trial.params["stem/conv/kernel"]).any()


def test_the_error_names_a_layer_rule_without_parameters():
    with pytest.raises(jaxft.UserError, match=r"layer rate 'stage4/\.\*' matches no parameter"):
        Trial(**{"layers.rates": (("stage4/.*", 0.1),)})


@pytest.mark.slow
def test_evaluation_ignores_padding():
    trial = Trial()
    state, frozen = trial.start()
    rows = jnp.asarray([[3, 4, 0, 0]], jnp.int32)
    step = jax.jit(make_eval_step(trial.phase.eval_spec))
    padded = step(state.params, state.batch_stats, trial.labels, rows, rows > 0, frozen, trial.images)
    logits, _ = apply_network(trial.phase, state.params, state.batch_stats, frozen, trial.images[3:5], train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, trial.labels[3:5])
    assert float(padded.loss) == pytest.approx(float(losses.sum()), rel=1e-5)
    assert int(padded.correct) == int((logits.argmax(-1) == trial.labels[3:5]).sum())


def test_label_smoothing_by_hand():
    """A zero head has equal logits, so the loss is log 3 with any smoothing."""
    trial = Trial(**{"loss.label_smoothing": 0.3})
    trial.params |= {name: jnp.zeros_like(trial.params[name]) for name in ("head/kernel", "head/bias")}
    state, frozen = trial.start()
    after, metrics = trial.step(state, frozen)
    assert float(metrics.loss) == pytest.approx(np.log(3), rel=1e-6)
    # The bias changes by lr (smoothed target - 1/3), averaged: smoothed = 0.7 one hot + 0.1.
    counts = np.bincount(np.asarray(trial.labels[trial.indices[0]]), minlength=3) / 6
    np.testing.assert_allclose(after.params["head/bias"], 0.01 * (0.7 * counts + 0.1 - 1 / 3), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "augmented",
    [
        {"augmentation.flip.enabled": True},
        {"augmentation.crop.padding_px": 2},
        {"augmentation.cutmix.alpha": 1.0},
        {"augmentation.randaugment.num_operations": 1},
    ],
)
def test_augmentation_depends_only_on_the_key(augmented):
    trial = Trial(**augmented)
    state, frozen = trial.start()
    one, _ = trial.step(state, frozen)
    same, _ = trial.step(state, frozen)
    other, _ = trial.step(state._replace(key=jax.random.PRNGKey(2)), frozen)
    np.testing.assert_array_equal(one.params["head/kernel"], same.params["head/kernel"])
    assert (one.params["head/kernel"] != other.params["head/kernel"]).any()


@pytest.mark.slow
def test_mixed_images_have_soft_labels():
    """The loss of a batch that is mixed by hand, with soft labels by hand and label smoothing."""
    trial = Trial(
        **{
            "augmentation.mixup.alpha": 0.5,
            "loss.label_smoothing": 0.2,
            "batch_norm.statistics": "frozen",
            "optimizer.momentum": 0.0,
        }
    )
    assert trial.phase.mixes == ("mixup",) and not trial.phase.can_cache_prefix
    state, frozen = trial.start()
    _, metrics = trial.step(state, frozen)
    rows = trial.indices[0]
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), MIX_STREAM)
    mixed, original = mix(key, trial.images[rows], {"mixup": trial.hparams.mixup_alpha})
    one_hot = np.eye(3)[np.asarray(trial.labels[rows])]
    soft = float(original) * one_hot + (1 - float(original)) * one_hot[::-1]
    variables = {"params": paths.unflatten(trial.params), "batch_stats": paths.unflatten(trial.stats)}
    logits = np.asarray(MODEL.apply(variables, PLAIN.apply(mixed)), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert float(metrics.loss) == pytest.approx(-((0.8 * soft + 0.2 / 3) * log_probabilities).sum(1).mean(), rel=1e-4)
    assert float(metrics.accuracy) == pytest.approx(soft[np.arange(6), logits.argmax(1)].mean(), abs=1e-6)


def test_alphas_of_mixing_do_not_recompile():
    one, two = (
        Trial(**{"augmentation.mixup.alpha": 0.2, "augmentation.cutmix.alpha": 1.0}),
        Trial(**{"augmentation.mixup.alpha": 0.4, "augmentation.cutmix.alpha": 0.3}),
    )
    assert one.phase == two.phase and one.phase.mixes == ("mixup", "cutmix")
    assert Trial(**{"augmentation.cutmix.alpha": 1.0}).phase.mixes == ("cutmix",)


@pytest.mark.slow
def test_weights_of_classes_in_the_loss_by_hand():
    """With a zero head, each loss is log 3; the bias changes by the weighted mean of one third minus one hot."""
    trial = Trial(**{"loss.class_weights": "inverse", "optimizer.momentum": 0.0, "optimizer.learning_rate": 0.3})
    trial.params |= {name: jnp.zeros_like(trial.params[name]) for name in ("head/kernel", "head/bias")}
    weights = np.array([0.5, 1.0, 3.0], np.float32)
    trial.hparams = make_hparams(trial.training, trial.layers, weights)
    state, frozen = trial.start()
    after, metrics = trial.step(state, frozen)
    labels = np.asarray(trial.labels[trial.indices[0]])
    assert float(metrics.loss) == pytest.approx(np.log(3) * weights[labels].mean(), rel=1e-6)
    slope = (weights[labels][:, None] * (1 / 3 - np.eye(3)[labels])).mean(0)
    np.testing.assert_allclose(after.params["head/bias"], -0.3 * slope, atol=1e-7)


@pytest.mark.slow
def test_ten_crops_are_averaged_as_probabilities():
    trial = Trial()
    larger = jnp.asarray(np.random.default_rng(5).integers(0, 256, (4, SIZE + 3, SIZE + 3, 3)), jnp.uint8)
    state, frozen = trial.start()
    evaluated = dataclasses.replace(trial.phase.eval_spec, crops="ten")
    rows, mask, labels = jnp.array([[2, 0]]), jnp.array([[True, True]]), jnp.array([0, 1, 2, 1])
    found = jax.jit(make_eval_step(evaluated))(state.params, state.batch_stats, labels, rows, mask, frozen, larger)
    variables = {"params": paths.unflatten(trial.params), "batch_stats": paths.unflatten(trial.stats)}
    expected = []
    for row in (2, 0):
        crops = [larger[row, y : y + SIZE, x : x + SIZE] for y, x in ((0, 0), (0, 3), (3, 0), (3, 3), (1, 1))]
        crops = jnp.stack([*crops, *(crop[:, ::-1] for crop in crops)])
        expected.append(jax.nn.softmax(MODEL.apply(variables, PLAIN.apply(crops))).mean(0))
    assert found.predictions.tolist() == [int(probabilities.argmax()) for probabilities in expected]
    assert float(found.loss) == pytest.approx(-float(jnp.log(expected[0][2]) + jnp.log(expected[1][0])), rel=1e-5)


def test_evaluation_crops_the_center_of_larger_images():
    trial = Trial()
    larger = jnp.pad(trial.images, ((0, 0), (2, 3), (2, 3), (0, 0)))
    state, frozen = trial.start()
    rows, mask = jnp.arange(12)[None], jnp.ones((1, 12), bool)
    step = jax.jit(make_eval_step(trial.phase.eval_spec))
    args = state.params, state.batch_stats, trial.labels, rows, mask, frozen
    for one, other in zip(step(*args, larger), step(*args, trial.images)):
        np.testing.assert_array_equal(one, other)


def test_the_linear_probe_comes_first_and_trains_only_the_head():
    trial = Trial(**{"linear_probe.epochs": 3.0, "schedule.epochs": 2.0})
    probe, rest = trial.phases
    assert set(probe.trainable) == {"head/kernel", "head/bias"} and probe.num_steps == 6
    assert len(rest.trainable) == len(trial.params) and rest.num_steps == 4


# --- optimizers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_layer_decay_scales_the_update_of_each_block(kind):
    """Blocks from the head down: head, stage2/block1, stage1/block1, stem (the pool has no leaves)."""
    depths = {"head": 0, "stage2/block1": 1, "stage1/block1": 2, "stem": 3}
    usual, decayed = Trial(**{"optimizer.name": kind}), Trial(**{"optimizer.name": kind, "layers.decay": 0.5})
    updates = []
    for trial in (usual, decayed):
        state, frozen = trial.start()
        after, _ = trial.step(state, frozen)
        updates.append({name: np.asarray(after.params[name] - state.params[name], np.float64) for name in after.params})
    for name, update in updates[0].items():
        block = next(block for block in depths if name.startswith(block + "/"))
        expected = update * 0.5 ** depths[block]
        np.testing.assert_allclose(updates[1][name], expected, atol=1e-6 + 1e-3 * np.abs(expected).max())


def test_the_linear_probe_has_a_separate_learning_rate():
    fields = {
        "linear_probe.epochs": 1.0,
        "optimizer.learning_rate": 0.1,
        "linear_probe.learning_rate": 0.4,
        "optimizer.momentum": 0.0,
    }
    trial, usual = Trial(**fields), Trial(**fields | {"linear_probe.learning_rate": None})
    layers = resolve_layers(Training(), MODEL, list(trial.params))
    probe = make_phases(MODEL, PLAIN, Training.of({**fields}), layers, list(trial.stats), 12)[0]
    assert probe.optimizer.probe and not trial.phase.optimizer.probe
    grads = {name: jnp.ones_like(trial.params[name]) for name in probe.trainable}
    moved = []
    for one in (trial, usual):
        tx = make_tx(probe.optimizer)(one.hparams)
        moved.append(tx.update(grads, tx.init(grads), grads)[0]["head/bias"])
    np.testing.assert_allclose(moved[0], -0.4, rtol=1e-6)
    np.testing.assert_allclose(moved[1], -0.1, rtol=1e-6)


# --- parts of a batch, SAM, averages ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"augmentation.mixup.alpha": 1.0, "augmentation.flip.enabled": True}])
def test_micro_batches_equal_the_whole_batch_without_batch_norm(fields):
    """With frozen statistics, six images in three micro-batches give the same step, with augmentation and mixing."""
    fields = {"batch_norm.statistics": "frozen", "loss.label_smoothing": 0.1, "loss.class_weights": "inverse", **fields}
    results = []
    for parts in (1, 3):
        trial = Trial(**{"batches.accumulate": parts}, **fields)
        trial.hparams = make_hparams(trial.training, trial.layers, np.array([0.5, 1.0, 3.0], np.float32))
        results.append(trial.step(*trial.start()))
    (one, metrics), (other, in_micro_batches) = results
    assert float(metrics.loss) == pytest.approx(float(in_micro_batches.loss), rel=1e-5)
    assert float(metrics.accuracy) == pytest.approx(float(in_micro_batches.accuracy), abs=1e-6)
    for name in one.params:
        before = np.asarray(trial.params[name])
        moved = np.asarray(one.params[name]) - before
        np.testing.assert_allclose(
            np.asarray(other.params[name]) - before, moved, atol=2e-4 * np.abs(moved).max() + 1e-7, err_msg=name
        )


@pytest.mark.slow
def test_each_micro_batch_updates_the_statistics():
    """Each micro-batch is normalized separately: running statistics equal those after three small batches."""
    trial = Trial(**{"batches.accumulate": 3})
    state, frozen = trial.start()
    after, _ = trial.step(state, frozen)
    stats = trial.stats
    for rows in trial.indices[0].reshape(3, 2):
        _, stats = apply_network(trial.phase, trial.params, stats, frozen, trial.images[rows], train=True)
    for name in stats:
        np.testing.assert_allclose(after.batch_stats[name], stats[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_sam_uses_the_gradient_after_the_ascent_step(parts):
    """With a prefix up to stage 2, the norm is over trainable leaves; the second pass does not update statistics."""
    rules = (("stem/.*|stage1/.*", "frozen"),)
    fields = {
        "optimizer.momentum": 0.0,
        "optimizer.learning_rate": 1.0,
        "layers.rates": rules,
        "batches.accumulate": parts,
    }
    plain, sharp = Trial(**fields), Trial(**fields, **{"optimizer.sam_radius": 0.5})
    state, frozen = plain.start()
    first, metrics = plain.step(state, frozen)
    gradient = {name: np.asarray(state.params[name] - first.params[name], np.float64) for name in state.params}
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    point = {name: jnp.asarray(state.params[name] + 0.5 * g / norm, jnp.float32) for name, g in gradient.items()}
    second, _ = plain.step(state._replace(params=point), frozen)
    after, of_sam = sharp.step(*sharp.start())
    assert sharp.phase.sharpness and float(of_sam.loss) == pytest.approx(float(metrics.loss), rel=1e-6)
    for name in state.params:
        there = np.asarray(point[name] - second.params[name])
        np.testing.assert_allclose(
            np.asarray(state.params[name] - after.params[name]), there, atol=2e-3 * np.abs(there).max() + 1e-6
        )
    assert after.batch_stats and set(after.batch_stats) == set(first.batch_stats)
    for name in first.batch_stats:
        np.testing.assert_allclose(after.batch_stats[name], first.batch_stats[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_average_covers_the_weights_after_each_step():
    """(d w1 + w2) / (1 + d) after two steps, for weights and statistics, whatever their initial values."""
    trial, plain = Trial(**{"optimizer.ema_decay": 0.75}), Trial()
    state, frozen = trial.start()
    other, _ = plain.start()
    steps = []
    for _ in range(2):
        state, _ = trial.step(state, frozen)
        other, _ = plain.step(other, frozen)
        steps.append((other.params, other.batch_stats))
    assert plain.phase != trial.phase and other.average == () and other.evaluated[0] is other.params
    for found, one, two in zip(state.evaluated, *steps):
        for name in found:
            np.testing.assert_allclose(found[name], (0.75 * one[name] + two[name]) / 1.75, rtol=2e-4, atol=1e-6)


# --- unfreezing, and lengths in steps ---------------------------------------------------------------------------


def test_stages_join_from_the_head_down():
    trial = Trial(
        **{
            "schedule.epochs": 4.0,
            "layers.unfreeze_epochs": (1.0, 2.0),
            "layers.rates": (("stage1/.*", "frozen"),),
            "schedule.shape": "cosine",
        }
    )
    first, second, third = trial.phases
    tops = [{name.partition("/")[0] for name in phase.trainable} for phase in trial.phases]
    assert tops == [{"head"}, {"head", "stage2"}, {"head", "stage2", "stem"}]
    assert [phase.interval for phase in trial.phases] == [(0, 2), (2, 4), (4, 8)]
    assert [phase.num_steps for phase in trial.phases] == [2, 2, 4]
    assert all(phase.optimizer.schedule == Schedule("cosine", 8) for phase in trial.phases)
    assert first.prefix == "pool" and second.prefix == "stage1/block1" and third.prefix is None
    joined = dict(third.optimizer.joined)
    assert joined["stem/conv/kernel"] == 4 and joined["stage2/block1/bn1/scale"] == 2 and "head/bias" not in joined


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"layers.unfreeze_epochs": (0.5, 0.9, 1.1, 1.5, 1.9)},
            "has 5 values, but only 3 stages can join after the first",
        ),
        ({"layers.unfreeze_epochs": (0.5, 0.6)}, r"which are the steps \[1, 1\] of 4; steps must increase"),
        ({"layers.unfreeze_epochs": (2.0,)}, "before the end"),
        (
            {"schedule.warmup_steps": 4},
            r"'training.schedule.warmup_steps' \(or warmup_epochs\) gives step 4, but the schedule has 4 steps",
        ),
        ({"schedule.shape": "step", "schedule.decay_steps": (2, 9)}, "gives step 9, but the schedule has 4 steps"),
    ],
)
def test_steps_beyond_the_schedule_are_an_error(fields, message):
    with pytest.raises(jaxft.UserError, match=message):
        Trial(**fields)


def test_lengths_in_steps_and_in_epochs_give_the_same_phase():
    """Twelve images in batches of six: two steps per epoch."""
    in_epochs = Trial(
        **{
            "schedule.epochs": 3.0,
            "schedule.shape": "step",
            "schedule.decay_epochs": (2.0,),
            "schedule.warmup_epochs": 1.0,
        }
    )
    steps = Trial(
        **{
            "schedule.epochs": 20.0,
            "schedule.steps": 6,
            "schedule.shape": "step",
            "schedule.decay_steps": (4,),
            "schedule.warmup_steps": 2,
        }
    )
    mixed = Trial(
        **{
            "schedule.epochs": 20.0,
            "schedule.steps": 6,
            "schedule.shape": "step",
            "schedule.decay_epochs": (2.0,),
            "schedule.warmup_epochs": 1.0,
        }
    )
    assert in_epochs.phase == steps.phase == mixed.phase and in_epochs.phase.num_steps == 6


# --- what is compiled again ------------------------------------------------------------------------------------


def test_numbers_do_not_recompile():
    """Trials that differ only in numbers share their phase, and the compiled step is traced once."""
    numbers = [
        {"optimizer.learning_rate": 0.1},
        {
            "optimizer.learning_rate": 0.3,
            "optimizer.momentum": 0.5,
            "optimizer.weight_decay": 0.1,
            "optimizer.beta2": 0.9,
        },
    ]
    numbers += [{"layers.backbone_learning_rate": 0.01, "loss.label_smoothing": 0.1, "schedule.decay_factor": 0.5}]
    numbers += [
        {"optimizer.clip_norm": 0.1, "optimizer.ema_decay": 0.5, "layers.decay": 0.5},
        {"optimizer.effective_learning_rate": 0.4},
    ]
    shape = {"schedule.shape": "step", "schedule.decay_epochs": (1.0,)}
    trials = [
        Trial(**{"optimizer.clip_norm": 1.0, "optimizer.ema_decay": 0.9, **shape, **fields}) for fields in numbers
    ]
    assert len({trial.phase for trial in trials}) == 1
    step = jax.jit(make_train_step(trials[0].phase))
    for trial in trials:
        state, frozen = trial.start()
        step(state, trial.hparams, trial.labels, trial.indices, frozen, trial.images)
    assert step._cache_size() == 1


def test_another_structure_gives_another_phase():
    usual = Trial().phase
    for fields in (
        {"augmentation.flip.enabled": True},
        {"augmentation.color_jitter.hue": 0.1},
        {"loss.class_weights": "inverse"},
        {"optimizer.name": "adamw"},
        {"schedule.shape": "linear"},
        {"optimizer.sam_radius": 0.05},
        {"optimizer.ema_decay": 0.9},
        {"optimizer.clip_norm": 1.0},
        {"batches.accumulate": 2},
        {"batch_norm.statistics": "frozen"},
        {"schedule.epochs": 3.0},
    ):
        assert Trial(**fields).phase != usual
    assert dataclasses.replace(usual) == usual


def test_the_state_is_arrays_only():
    state, frozen = Trial().start()
    assert isinstance(state, State) and isinstance(frozen, Frozen)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((state, frozen)))
