"""Regularizers and batch-norm policies: formulas by hand, in a step, between executors and above a frozen prefix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw_variables
from study.test_loop import MODEL, PLAIN, SIZE, Memory, assert_close, images, program_and_lanes

import jaxft
from jaxft.analysis.linear import fit
from jaxft.config import Study, Training, from_dict
from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.data.batches import StepRange, batch_indices
from jaxft.features.cache import FeatureCache
from jaxft.models import create_model
from jaxft.models.families.efficientnet import EfficientNetLite, Shape
from jaxft.models.layers import BatchNorm, batch_norm_in_groups
from jaxft.study.chunk.chunk_state import Position
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.recalibration import check_frozen
from jaxft.study.chunk.resuming import CheckpointPolicy
from jaxft.study.services import Services
from jaxft.study.trial_loader import with_measured
from jaxft.training.evaluation import pool_moments
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.noise import Dropout, drop
from jaxft.training.phase import NONE
from jaxft.training.phases import make_phases
from jaxft.training.regularizers.active import ActiveRegularizers, make_numbers, make_regularizers
from jaxft.training.regularizers.base import Scope
from jaxft.training.regularizers.bss import smallest_singular_values
from jaxft.training.regularizers.channel_attention import channel_attention
from jaxft.training.regularizers.delta import map_distance
from jaxft.training.regularizers.distillation import distillation_loss
from jaxft.training.regularizers.l2_sp import squared_distance
from jaxft.training.regularizers.stochastic_depth import branch_factors
from jaxft.training.state import init_state, split_variables
from jaxft.training.step import make_train_step
from jaxft.training.training_images import TrainingImages

CHANNELS = {"stage1/block1": 4, "stage2/block1": 8}
UNITS = tuple(CHANNELS)
SOURCE_CLASSES = 5
ATTENTION = {u: np.random.default_rng(n).dirichlet(np.ones(n)).astype(np.float32) for u, n in CHANNELS.items()}
STRONG = {  # all regularizers that use the source, strong enough for a visible effect
    "regularization.l2_sp.strength": {
        "regularization.l2_sp.strength": 3.0,
        "regularization.l2_sp.rules": (("stage2/.*", 0.0), (".*/kernel", 7.0)),
        "regularization.l2_sp.head": 0.2,
    },
    "regularization.delta.strength": {"regularization.delta.strength": 0.01},
    "regularization.bss.strength": {"regularization.bss.strength": 0.05, "regularization.bss.count": 2},
    "regularization.distillation.strength": {
        "regularization.distillation.strength": 4.0,
        "regularization.distillation.temperature": 3.0,
    },
}


# --- formulas by hand -------------------------------------------------------------------------------------------


def test_l2_sp_by_hand():
    """0.5/2 (1 + 4) + 3/2 (0.25); leaves without a strength have no penalty."""
    params = {"a/kernel": jnp.array([1.0, 2.0]), "a/bias": jnp.array([0.5]), "head/kernel": jnp.array([9.0])}
    start = {"a/kernel": jnp.array([0.0, 4.0]), "a/bias": jnp.array([1.0])}
    assert float(squared_distance(params, start, {"a/kernel": 0.5, "a/bias": 3.0})) == pytest.approx(1.625)


def test_the_distance_of_maps_by_hand():
    """Two images of 1 x 2 positions and two channels: squares 1, 4 | 0, 9 and 0, 0 | 16, 1, with W = 0.25, 0.75."""
    source = np.zeros((2, 1, 2, 2), np.float32)
    maps = np.array([[[[1, 0], [2, 3]]], [[[0, 4], [0, 1]]]], np.float32)
    expected = ((1 + 4) * 0.25 + 9 * 0.75 + (16 + 1) * 0.75) / 2
    found = map_distance({"u": maps}, {"u": source}, {"u": jnp.array([0.25, 0.75])})
    assert float(found) == pytest.approx(expected)


def test_the_smallest_singular_values_by_hand():
    assert float(smallest_singular_values(jnp.diag(jnp.array([3.0, 0.5, 2.0])), 2)) == pytest.approx(4.25)
    for shape in ((4, 7), (7, 4)):
        features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        of_numpy = np.linalg.svd(features.astype(np.float64))
        value, grad = jax.value_and_grad(lambda x: smallest_singular_values(x, 1))(jnp.asarray(features))
        assert float(value) == pytest.approx(of_numpy[1][-1] ** 2, rel=1e-4)
        # d sigma^2 = 2 sigma u v'. There are four singular values in both cases.
        np.testing.assert_allclose(grad, 2 * of_numpy[1][3] * np.outer(of_numpy[0][:, 3], of_numpy[2][3]), atol=1e-5)


def test_distillation_by_hand():
    """Temperature 2 halves the logits: 1/4, 3/4 before and 1/2, 1/2 now, so the loss is log 2; then 1/10, 9/10 now."""
    before = jnp.array([[0.0, 2 * np.log(3)]] * 2)
    now = jnp.array([[1.0, 1.0], [0.0, 2 * np.log(9)]])
    expected = [np.log(2), 0.25 * np.log(10) + 0.75 * np.log(10 / 9)]
    np.testing.assert_allclose(distillation_loss(now, before, 2.0), expected, rtol=1e-6)


def test_dropout_keeps_the_mean():
    x = jnp.full((200, 100), 2.0)
    key, positions = jax.random.key(3), jnp.arange(200)
    dropped = np.asarray(drop(x, Dropout(key, 0.25, positions)))
    np.testing.assert_allclose(np.unique(dropped), [0, 8 / 3], rtol=1e-6)
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02) and dropped.mean() == pytest.approx(2.0, abs=0.04)
    np.testing.assert_array_equal(drop(x, Dropout(key, 0.0, positions)), x)
    np.testing.assert_array_equal(drop(x[:50], Dropout(key, 0.25, positions[50:100])), dropped[50:100])


def test_skip_probability_rises_linearly_with_depth():
    """Block l of three is kept with probability 1 - l/3 0.6: 0.8, 0.6, 0.4; then its factor is the inverse."""
    keys = jax.random.split(jax.random.key(0), 2000)
    blocks = ("stage2/block1", "stage3/block1")
    factors = jax.jit(jax.vmap(lambda key: branch_factors(key, create_model("cifar_resnet8", 3), blocks, 0.6)))(keys)
    assert set(factors) == set(blocks)
    for block, kept in zip(blocks, (0.6, 0.4)):
        there = np.asarray(factors[block]) > 0
        assert there.mean() == pytest.approx(kept, abs=0.035)
        np.testing.assert_allclose(np.asarray(factors[block])[there], 1 / kept, rtol=1e-6)
    assert not np.array_equal(*(factors[block] > 0 for block in blocks))


LITE = EfficientNetLite(shapes=(Shape(1, 3, 1, 1, 16), Shape(2, 5, 2, 6, 24)))


@pytest.mark.parametrize(
    ("model", "block", "size_px"),
    [
        (create_model("wrn16_1", 3), "stage3/block2", 8),
        # the shortcut is a projection; no ReLU follows
        pytest.param(create_model("resnetsmall14", 3), "stage2/block1", 16, marks=pytest.mark.slow),
        pytest.param(LITE, "stage2/block2", 8, marks=pytest.mark.slow),
    ],
    ids=["wrn", "resnetsmall", "efficientnet_lite"],
)
def test_a_skipped_branch_leaves_the_shortcut(model, block, size_px):
    """With factor 0, a block without a projection is the identity (if no ReLU follows); with 1, it is unchanged."""
    assert block in model.residual_blocks
    variables = draw_variables(model, size_px)
    before = model.blocks[model.blocks.index(block) - 1]
    images = np.random.default_rng(1).normal(size=(2, size_px, size_px, 3)).astype(np.float32)
    x = model.apply(variables, images, stop=before)

    def run(factor):
        branches = paths.unflatten({f"{block}/factor": jnp.float32(factor)})
        return model.apply({**variables, "branches": branches}, x, after=before, stop=block)

    plain = model.apply(variables, x, after=before, stop=block)
    np.testing.assert_array_equal(run(1.0), plain)
    skipped = run(0.0)
    if block != "stage2/block1":
        np.testing.assert_array_equal(skipped, x)
    np.testing.assert_allclose(run(2.0) - skipped, 2 * (plain - skipped), atol=1e-4)


def source_of(seed=5):
    """Returns the flat variables of a source with other classes, including its head."""
    variables = draw_variables(create_model("toy", SOURCE_CLASSES), SIZE, seed)
    return {name: paths.flatten(variables[name]) for name in ("params", "batch_stats")}


def nested(source):
    return {name: paths.unflatten(leaves) for name, leaves in source.items()}


def outputs(source, block, rows, num_classes=SOURCE_CLASSES):
    model = create_model("toy", num_classes)
    return model.apply(nested(source), PLAIN.apply(images()[0][jnp.asarray(rows)]), stop=block)


@pytest.mark.slow
def test_attention_is_how_much_the_loss_rises_without_a_channel():
    """For the last block before the pool, in NumPy: without channel j, the j-th pooled feature is zero."""
    source, (pixels, labels) = source_of(), images()
    rows = np.arange(3, 36)
    on_source = TrainingImages(MODEL, PLAIN, source, pixels, "images", rows, labels[rows], FeatureCache(1e9))
    found = channel_attention(UNITS, on_source)
    assert {block: len(of) for block, of in found.items()} == CHANNELS
    assert all(of.sum() == pytest.approx(1, abs=1e-5) for of in found.values())
    features = np.asarray(outputs(source, "pool", rows))
    kernel, bias = (of[0] for of in fit("logistic", features, labels[rows], 3, [0.01])[:2])

    def loss(features):
        logits = features @ kernel + bias
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), labels[rows]])

    rise = [loss(features * (np.arange(8) != j)) - loss(features) for j in range(8)]
    np.testing.assert_allclose(found[UNITS[1]], np.exp(rise) / np.exp(rise).sum(), rtol=1e-3)


# --- in a step --------------------------------------------------------------------------------------------------


def lanes_with_source(rates, attention=ATTENTION, **fields):
    """Returns a program and lanes that start from the backbone of one source, with twelve training images."""
    fields = {"optimizer.momentum": 0.0, "schedule.shape": "constant", **fields}
    program, lanes = program_and_lanes(rates, **fields | {"initialization.start": "pretrained"})
    source = source_of()
    found = []
    for lane in lanes:
        backbone = {name: leaf for name, leaf in source["params"].items() if not name.startswith("head/")}
        lane = dataclasses.replace(
            lane, params=dict(lane.params) | backbone, batch_stats=source["batch_stats"], source=source
        )
        found.append(with_measured(lane, {"delta": attention} if fields.get("regularization.delta.strength") else {}))
    return program, found


def whole_loss(fields, source, params, stats, rows, labels):
    """Returns the regularized loss of a batch in inference mode, computed from the formulas."""
    fields = {name.removeprefix("regularization."): value for name, value in fields.items()}
    variables = {"params": paths.unflatten(params), "batch_stats": paths.unflatten(stats)}
    x = PLAIN.apply(images()[0][rows])
    shares = jax.nn.log_softmax(MODEL.apply(variables, x))
    loss = -shares[jnp.arange(len(rows)), jnp.asarray(labels)[rows]].mean()
    for name, leaf in params.items():
        if name.startswith("head/"):
            loss += fields.get("l2_sp.head", 0) / 2 * (leaf**2).sum()
        elif "l2_sp.strength" in fields:
            strength = 0.0 if name.startswith("stage2/") else 7.0 if name.endswith("kernel") else 3.0
            loss += strength / 2 * ((leaf - source["params"][name]) ** 2).sum()
    for block in UNITS if "delta.strength" in fields else ():
        ours = MODEL.apply(variables, x, stop=block)
        squares = ((ours - outputs(source, block, rows)) ** 2).sum((1, 2))
        loss += fields["delta.strength"] * (squares * ATTENTION[block].reshape(1, -1)).sum(1).mean()
    features = MODEL.apply(variables, x, stop="pool")
    if "bss.strength" in fields:
        loss += fields["bss.strength"] * (jnp.linalg.svd(features, compute_uv=False)[4:] ** 2).sum()  # six images
    if "distillation.strength" in fields:
        kernel, bias = source["params"]["head/kernel"], source["params"]["head/bias"].reshape(1, -1)
        before = jax.nn.softmax(outputs(source, "head", rows) / 3)
        now = jax.nn.log_softmax((features @ kernel + bias) / 3)
        loss -= fields["distillation.strength"] * (before * now).sum(1).mean()
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("name", STRONG)
def test_a_step_follows_the_gradient_of_loss_and_penalties(name):
    """Two steps of plain SGD, not at the source. Statistics are frozen, so maps are cached."""
    fields, usual = (
        STRONG[name],
        {"schedule.epochs": 1.0, "batch_norm.statistics": "frozen", "selection.weights": "last"},
    )
    rng = np.random.default_rng(11)
    program, (lane,) = lanes_with_source([0.05], **usual, **fields)
    moved_away = {n: leaf + 0.03 * rng.normal(size=leaf.shape).astype(np.float32) for n, leaf in lane.params.items()}
    lane = dataclasses.replace(lane, params=moved_away)
    outcome = run_chunk(program, [lane], images()[0])[0]
    plain_program, _ = lanes_with_source([0.05], **usual)
    plain_lane = dataclasses.replace(lane, hparams=lane.hparams._replace(regularizers={}, measured={}))
    plain = run_chunk(plain_program, [plain_lane], images()[0])[0]
    gradient = jax.jit(
        jax.grad(lambda params, rows: whole_loss(fields, lane.source, params, lane.batch_stats, rows, lane.labels))
    )
    params = dict(lane.params)
    for rows in batch_indices(lane.train, lane.order_seed, StepRange(0, 2, 6, 1, len(lane.labels))):
        grads = gradient(params, rows)
        params = {leaf: value - 0.05 * grads[leaf] for leaf, value in params.items()}
    changed = []
    for leaf, start in lane.params.items():
        moved = np.abs(np.asarray(params[leaf]) - np.asarray(start)).max()
        np.testing.assert_allclose(outcome.params[leaf], params[leaf], atol=5e-3 * moved + 1e-6, err_msg=leaf)
        changed.append(np.abs(np.asarray(plain.params[leaf]) - np.asarray(outcome.params[leaf])).max() / moved)
    assert max(changed) > 0.03  # the regularizer has an effect


@pytest.mark.slow
def test_cached_maps_equal_a_forward_pass_of_the_source():
    """The budget is too small for maps, so the source runs at each step."""
    program, (lane,) = lanes_with_source(
        [0.05], **{"regularization.delta.strength": 0.01, "schedule.epochs": 1.0, "selection.weights": "last"}
    )
    kept = run_chunk(program, [lane], images()[0], services=Services(FeatureCache(1e9)))[0]
    uncached = run_chunk(program, [lane], images()[0], services=Services(FeatureCache(0)))[0]
    assert_close(kept.params, uncached.params)


EVERYTHING = {
    "regularization.l2_sp.strength": 0.1,
    "regularization.delta.strength": 0.01,
    "regularization.bss.strength": 0.01,
    "regularization.distillation.strength": 0.5,
    "regularization.dropout.rate": 0.2,
    "regularization.stochastic_depth.rate": 0.3,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "flip", [pytest.param(False, id="kept"), pytest.param(True, id="forward", marks=pytest.mark.nightly)]
)
def test_vmap_and_sequential_execution_agree_above_a_frozen_prefix(flip):
    rules = (("stem/.*|stage1/.*", "frozen"),)
    fields = {
        **EVERYTHING,
        "layers.rates": rules,
        "augmentation.flip.enabled": flip,
        "augmentation.mixup.alpha": 0.2 * flip,
    }
    attention = {block: ATTENTION[block] for block in UNITS[1:]}
    program, lanes = lanes_with_source([0.02, 0.05], attention, **fields)
    phase = program.phases[0]
    assert phase.prefix == UNITS[0] and phase.regularizers.static("delta") == UNITS[1:]
    assert phase.regularizers.static("stochastic_depth") == UNITS[1:]
    assert all(not name.startswith(("stem", "stage1")) for name, _ in phase.regularizers.static("l2_sp").leaves)
    together = run_chunk(program, lanes, images()[0], services=Services(FeatureCache(1e9)))
    for lane, outcome in zip(lanes, together):
        alone = run_chunk(program, [lane], images()[0], services=Services(FeatureCache(1e9)))[0]
        assert_close(alone.params, outcome.params)
        without_cache = run_chunk(program, [lane], images()[0])[0]
        assert_close(alone.params, without_cache.params)


@pytest.mark.slow
def test_a_resumed_trial_is_bit_identical(monkeypatch):
    monkeypatch.setattr("jaxft.study.chunk.loop.LOOP_SECONDS", 0.0)
    program, (lane,) = lanes_with_source([0.05], **{"batch_norm.statistics": "recalibrated"}, **EVERYTHING)
    whole = run_chunk(program, [lane], images()[0])[0]
    memory = Memory(Position(0, 2, 1))
    with pytest.raises(KeyboardInterrupt):
        run_chunk(program, [lane], images()[0], policy=CheckpointPolicy(memory, 0))
    memory.killed_at = None
    continued = run_chunk(program, [lane], images()[0], policy=CheckpointPolicy(memory, 0))[0]
    for one, other in ((whole.params, continued.params), (whole.batch_stats, continued.batch_stats)):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def phase_of(**fields):
    training = Training.of({**fields})
    variables = draw_variables(MODEL, SIZE)
    names = tuple(paths.flatten(variables["params"]))
    layers = resolve_layers(training, MODEL, names)
    stats = tuple(paths.flatten(variables["batch_stats"]))
    return make_phases(MODEL, PLAIN, training, layers, stats, 12)[-1], make_hparams(training, layers)


def test_inactive_regularizers_change_nothing():
    phase, hparams = phase_of()
    assert phase.regularizers == NONE and hparams.regularizers == {} and phase.virtual_batch_size is None
    frozen, numbers = phase_of(**{"layers.backbone_learning_rate": "frozen"}, **EVERYTHING)
    assert frozen.regularizers == ActiveRegularizers((("dropout", True),))  # others need trained blocks
    assert set(numbers.regularizers) == {name.split(".")[1] for name in EVERYTHING}
    probed, _ = phase_of(**{"linear_probe.epochs": 1.0, "schedule.epochs": 1.0, "regularization.dropout.rate": 0.1})
    assert probed.regularizers.static("dropout")


def test_strengths_do_not_recompile():
    one, of_one = phase_of(
        **{
            "regularization.l2_sp.strength": 0.1,
            "regularization.dropout.rate": 0.1,
            "regularization.l2_sp.rules": (("stem/.*", 0.5),),
        }
    )
    two, of_two = phase_of(
        **{
            "regularization.l2_sp.strength": 0.2,
            "regularization.dropout.rate": 0.3,
            "regularization.l2_sp.rules": (("stem/.*", 0.1),),
        }
    )
    assert one == two and jax.tree.structure(of_one) == jax.tree.structure(of_two)
    assert float(of_two.regularizers["l2_sp"]["rules"]["stem/.*"]) == pytest.approx(0.1)
    assert phase_of(**{"regularization.l2_sp.strength": 0.1})[0] != one


def test_rules_of_l2_sp():
    training = Training.of(
        {"regularization.l2_sp.strength": 0.2, "regularization.l2_sp.rules": (("stem/.*", 0.0), (".*", 0.5))}
    )
    names = ("stem/conv/kernel", "stage1/block1/conv1/kernel", "head/kernel")
    scope = Scope(MODEL, names, names, None)
    pull = make_regularizers(training, scope).static("l2_sp")
    assert pull.leaves == (("stage1/block1/conv1/kernel", ".*"),) and not pull.head
    assert {name: float(of) for name, of in make_numbers(training)["l2_sp"]["rules"].items()} == {".*": 0.5}
    with pytest.raises(UserError, match=r"L2-SP rule 'stge1/\.\*' matches no parameter"):
        make_regularizers(Training.of({"regularization.l2_sp.rules": (("stge1/.*", 0.5),)}), scope)
    with pytest.raises(UserError, match="squeezenet1_0 has no residual blocks"):
        scope = Scope(create_model("squeezenet1_0", 2), (), (), None)
        make_regularizers(Training.of({"regularization.stochastic_depth.rate": 0.2}), scope)


@pytest.mark.slow
def test_a_wider_network_skips_the_blocks_of_the_plain_one():
    """The last stage is one block, but its residual blocks are skipped as in the plain network, with its l and L."""
    wide = create_model("toy+wider4", 3)
    training = Training.of({"regularization.stochastic_depth.rate": 0.6})
    blocks = make_regularizers(training, Scope(wide, (), (), None)).static("stochastic_depth")
    assert blocks == UNITS
    factors = branch_factors(jax.random.key(0), wide, blocks, 0.6)
    for kept, factor in zip((0.7, 0.4), factors.values(), strict=True):
        assert factor == 0 or np.isclose(factor, 1 / kept)
    variables = draw_variables(wide, SIZE)
    pictures = PLAIN.apply(images()[0][:2])

    def run(factor):
        branches = paths.unflatten({"stage2/block1/factor": jnp.float32(factor)})
        return wide.apply({**variables, "branches": branches}, pictures)

    np.testing.assert_array_equal(run(1.0), wide.apply(variables, pictures))
    assert not np.array_equal(run(0.0), run(1.0))


@pytest.mark.slow
def test_dropout_and_depth_depend_on_the_key_and_the_step():
    phase, hparams = phase_of(
        **{
            "regularization.dropout.rate": 0.5,
            "regularization.stochastic_depth.rate": 0.9,
            "batches.size": 6,
            "schedule.shape": "constant",
        }
    )
    variables = draw_variables(MODEL, SIZE)
    flat = {name: paths.flatten(variables[name]) for name in ("params", "batch_stats")}
    blocks_above_prefix, tracked, frozen = split_variables(phase, flat["params"], flat["batch_stats"])
    pixels, labels = images()
    indices = jnp.arange(6)[None] + jnp.zeros((6, 1), jnp.int32)
    step = jax.jit(make_train_step(phase))

    def loss(key, number):
        state = init_state(phase, blocks_above_prefix, tracked, hparams, key)._replace(step=jnp.int32(number))
        return float(step(state, hparams, jnp.asarray(labels), indices, frozen, pixels)[1].loss)

    key = jax.random.PRNGKey(1)
    assert loss(key, 0) == loss(key, 0)
    assert len({loss(key, 0), loss(key, 1), loss(jax.random.PRNGKey(2), 0)}) == 3


# --- batch norm -------------------------------------------------------------------------------------------------


def test_virtual_batches_are_normalized_as_successive_batches():
    norm, x = BatchNorm(), jnp.asarray(np.random.default_rng(0).normal(2, 3, (12, 2, 2, 5)), jnp.float32)
    start = norm.init(jax.random.key(0), x)
    params = {"scale": jnp.arange(1.0, 6), "bias": jnp.arange(5.0)}
    with batch_norm_in_groups(4):
        found, updated = norm.apply({**start, "params": params}, x, train=True, mutable=["batch_stats"])
    stats, expected = start["batch_stats"], []
    for group in np.split(np.asarray(x), 3):
        y, after = norm.apply({"params": params, "batch_stats": stats}, group, train=True, mutable=["batch_stats"])
        stats = after["batch_stats"]
        expected.append(y)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(updated["batch_stats"][name], stats[name], rtol=1e-5)
    with batch_norm_in_groups(4):
        evaluated = norm.apply({**start, "params": params}, x)
    np.testing.assert_array_equal(evaluated, norm.apply({**start, "params": params}, x))


@pytest.mark.slow
def test_a_virtual_batch_reaches_every_batch_norm():
    variables = draw_variables(MODEL, SIZE)
    x = PLAIN.apply(images()[0][:6])

    def logits(x, size):
        with batch_norm_in_groups(size):
            return MODEL.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    by_hand = jnp.concatenate([logits(x[:3], None), logits(x[3:], None)])
    np.testing.assert_allclose(logits(x, 3), by_hand, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(logits(x, 6), logits(x, None))
    assert np.abs(np.asarray(logits(x, 3) - logits(x, None))).max() > 1e-3


def test_pooled_moments_equal_moments_of_all_images():
    x = np.random.default_rng(0).normal(3, 2, (10, 6, 4))  # images, positions, features
    batches = x[:4], x[4:7], x[7:]
    moments = [
        {"bn/mean": of.mean((0, 1)), "bn/var": of.var((0, 1)), "bn/values_per_image": np.array(6)} for of in batches
    ]
    found = pool_moments(moments, [len(of) for of in batches])
    np.testing.assert_allclose(found["bn/mean"], x.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found["bn/var"], x.var((0, 1), ddof=0) * 60 / 59, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rules", [(("stem/.*", "frozen"),), pytest.param((), marks=pytest.mark.nightly)])
def test_recalibrated_statistics_equal_statistics_of_the_training_images(rules, monkeypatch):
    program, lanes = program_and_lanes([0.05], **{"batch_norm.statistics": "recalibrated", "layers.rates": rules})
    outcome = run_chunk(program, lanes, images()[0], services=Services(FeatureCache(1e9)))[0]
    tracked = program.phases[0].tracked
    assert ("stem/bn/mean" in tracked) == (not rules)
    params, stats = paths.unflatten(outcome.params), paths.unflatten(outcome.batch_stats)
    x = PLAIN.apply(images()[0][lanes[0].train])
    after = "stem" if rules else None
    if rules:
        x = MODEL.apply({"params": params, "batch_stats": stats}, x, stop="stem")
    # All images are one batch, which moves the running statistics by a tenth toward its statistics.
    zeros = jax.tree.map(jnp.zeros_like, stats)
    variables = {"params": params, "batch_stats": zeros}
    _, updated = MODEL.apply(variables, x, train=True, after=after, mutable=["batch_stats"])
    expected = paths.flatten(updated["batch_stats"])
    for name in tracked:
        np.testing.assert_allclose(outcome.batch_stats[name], 10 * expected[name], rtol=1e-3, atol=1e-5)
    usual = run_chunk(
        *program_and_lanes([0.05], **{"layers.rates": rules}), images()[0], services=Services(FeatureCache(1e9))
    )[0]
    np.testing.assert_array_equal(usual.params["head/kernel"], outcome.params["head/kernel"])
    np.testing.assert_array_equal(usual.curves["val_loss"], outcome.curves["val_loss"])
    monkeypatch.setattr("jaxft.study.chunk.recalibration.MOMENTS_BATCH", 5)
    in_batches = run_chunk(program, lanes, images()[0])[0]
    first = "stage1/block1/bn1" if rules else "stem/bn"  # the first tracked batch norm
    for name in (f"{first}/mean", f"{first}/var"):
        np.testing.assert_allclose(in_batches.batch_stats[name], outcome.batch_stats[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["frozen", pytest.param("tracked", marks=pytest.mark.slow)])
def test_frozen_statistics_are_bit_identical_after_training(policy):
    program, lanes = program_and_lanes([0.1], **{"batch_norm.statistics": policy, "batch_norm.affine": "frozen"})
    outcome = run_chunk(program, lanes, images()[0])[0]
    same = {n: np.array_equal(outcome.batch_stats[n], leaf) for n, leaf in lanes[0].batch_stats.items()}
    assert set(same.values()) == {policy == "frozen"}
    for name, leaf in lanes[0].params.items():
        is_affine = "/bn" in name
        assert np.array_equal(outcome.params[name], leaf) == is_affine, name


def test_a_changed_frozen_statistic_is_an_error_that_names_it():
    before = {"stem/bn/mean": np.zeros(2, np.float32), "stem/bn/var": np.ones(2, np.float32)}
    after = {"stem/bn/mean": np.array([0.0, -0.0], np.float32), "stem/bn/var": np.array([1, 1 + 1e-7], np.float32)}
    with pytest.raises(RuntimeError, match=r"changed 2 frozen batch-norm statistics: stem/bn/mean, stem/bn/var\."):
        check_frozen(before, after, ())
    check_frozen(before, after, ("stem/bn/mean", "stem/bn/var"))


# --- configs, studies, documentation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_norm.virtual_batch_size": 5}, "it must divide 'training.batches.size', 32"),
        (
            {"batch_norm.virtual_batch_size": 8, "batch_norm.statistics": "frozen"},
            "so batch statistics are not used",
        ),
        (
            {"regularization.l2_sp.strength": 0.1, "initialization.start": "random"},
            "needs source weights, but 'training.initialization.start' is 'random'",
        ),
        (
            {"regularization.delta.strength": 0.1, "initialization.start": "mean_var"},
            "'training.initialization.start' is 'mean_var', which draws random weights for some blocks",
        ),
        (
            {"regularization.delta.strength": 0.1, "initialization.transferred_blocks": 2},
            "'training.initialization.transferred_blocks' is 2, which draws random weights for some blocks",
        ),
        (
            {"regularization.bss.strength": 0.1, "regularization.bss.count": 40},
            "the features of a micro-batch of 32 images have fewer singular values",
        ),
        (
            {"regularization.dropout.rate": 0.1, "schedule.epochs": 0.0, "linear_probe.epochs": 1.0},
            "acts only in fine-tuning after the linear probe",
        ),
        ({"regularization.l2_sp.rules": [["stem/.*", "frozen"]]}, r"allowed: a list of pairs \(pattern, number\)"),
    ],
)
def test_a_regularizer_that_cannot_act_is_an_error(fields, message):
    with pytest.raises(UserError, match=message):
        from_dict(Study, {"source": {"weights": "a.safetensors"}, "training": fields})


@pytest.mark.nightly
@pytest.mark.slow
def test_a_study_can_regularize_toward_a_source_that_it_trains(tmp_path):
    """Attention and the source head come from the source; both executors agree."""
    fields = {"data": "digits", "classes": ["0", "1", "2"], "train_per_class": 8, "val_per_class": 4}
    study = {
        "source": {
            "model": "cifar_resnet8",
            "images": fields,
            "training": {
                "initialization.start": "random",
                "optimizer.learning_rate": 0.1,
                "schedule.epochs": 3.0,
                "batches.size": 12,
            },
        },
        "target": {**fields, "classes": ["3", "4"]},
        "training": {
            **EVERYTHING,
            "optimizer.learning_rate": 0.05,
            "schedule.epochs": 2.0,
            "batches.size": 8,
            "batch_norm.statistics": "recalibrated",
        },
        "seeds": 2,
    }
    results = jaxft.run_study({**study, "execution": {"executor": "sequential"}}, tmp_path / "one", quiet=True)
    together = jaxft.run_study({**study, "execution": {"executor": "vmap"}}, tmp_path / "two", quiet=True)
    assert results["status"].tolist() == together["status"].tolist() == ["done"] * 2
    np.testing.assert_allclose(results["relative_change"], together["relative_change"], rtol=0.02)


def test_distillation_needs_a_source_with_a_head(real_data):
    from jaxft.study.plan import make_plan

    file = real_data / "weights/squeezenet1_1.imagenet-notop.safetensors"
    study = {
        "source": {"model": "squeezenet1_1_keras", "weights": str(file)},
        "target": {"data": "digits", "size_px": 64, "train_per_class": 2},
        "training": {"regularization.distillation.strength": 1.0, "schedule.epochs": 1.0, "batches.size": 4},
    }
    with pytest.raises(UserError, match="contains none; set the strength to 0"):
        make_plan(from_dict(Study, study))
