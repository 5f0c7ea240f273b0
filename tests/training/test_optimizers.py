"""Every optimizer: the update of each leaf follows from the rule of the leaf."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.config import Training
from jaxft.models import create_model
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_layers, resolve_rates
from jaxft.training.optimizers import Optimizer, continue_opt_state, make_tx
from jaxft.training.schedules import Schedule, make_schedule

SHAPES = {
    "stem/conv/kernel": (3, 2),
    "stem/bn/scale": (2,),
    "stage1/block1/conv1/kernel": (2, 4),
    "stage1/block1/bn1/bias": (4,),
    "stage2/block1/conv1/kernel": (4, 2),
    "stage2/block1/bn1/scale": (2,),
    "head/kernel": (2, 3),
    "head/bias": (3,),
}
DEPTHS = {name: {"head": 0, "stage2": 1, "stage1": 2, "stem": 3}[name.partition("/")[0]] for name in SHAPES}
KERNELS = tuple(name for name in SHAPES if name.endswith("kernel"))
MODEL = create_model("cifar_resnet8", 2)  # the rules match its head and its norms
STEPS = 6
# float32 represents these numbers exactly, so the comparison in float64 is exact.
NUMBERS = {"optimizer.learning_rate": 0.5, "optimizer.momentum": 0.75, "optimizer.beta2": 0.875, "layers.decay": 0.5}
RULES = (("stage2/.*/kernel", 0.25), ("stage1/.*/bn1/.*", "frozen"), ("stem/.*", 2.0))


def resolved(**fields):
    """Returns the config, the rule of each parameter, the learning rates, and the groups of the trainable leaves."""
    training = Training.of({**NUMBERS, "layers.rates": RULES, "layers.backbone_learning_rate": 0.125, **fields})
    layers = resolve_layers(training, MODEL, list(SHAPES))
    rates = resolve_rates(training, layers, DEPTHS)
    groups = tuple((name, match.pattern) for name, match in layers.items() if match.value != "frozen")
    return training, layers, rates, groups


def optimizer_of(training, groups, schedule=None, joined=()):
    schedule = schedule or Schedule("cosine", STEPS, warmup_steps=2)
    depths = tuple((name, DEPTHS[name]) for name, _ in groups)
    clipped = training.optimizer.clip_norm > 0
    decayed = tuple(name for name, _ in groups if name in KERNELS)
    chosen = training.optimizer
    return Optimizer(chosen.name, chosen.nesterov, schedule, groups, depths, False, joined, clipped, decayed)


def draws(names, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=SHAPES[name]) for name in names}


def moved_by_hand(kind, nesterov, grads, start, rates, decay):
    """Returns the values of one leaf after updates with the given gradients and learning rates, by definition."""
    b1, b2 = NUMBERS["optimizer.momentum"], NUMBERS["optimizer.beta2"]
    w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):
        if kind in ("sgd", "adam"):
            g = g + decay * w
        if kind == "sgd":
            m = b1 * m + g
            w = w - rate * (g + b1 * m if nesterov else m)
        elif kind == "lion":
            step = np.sign(b1 * m + (1 - b1) * g)
            m = b2 * m + (1 - b2) * g
            w = w - rate * (step + decay * w)
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            first = m / (1 - b1**t)
            if nesterov:
                first = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
            step = first / (np.sqrt(v / (1 - b2**t)) + (1e-6 if kind == "lamb" else 1e-8))
            step = step + decay * w * (kind != "adam")
            if kind == "lamb":
                step = step * np.linalg.norm(w) / np.linalg.norm(step)
            w = w - rate * step
    return w


CASES = [
    *(("sgd", nesterov, decay, clip) for nesterov in (False, True) for decay in (0.0, 0.125) for clip in (0.0, 1.0)),
    *((kind, False, 0.125, clip) for kind in ("adam", "adamw", "lamb", "lion") for clip in (0.0, 1.0)),
    ("adamw", True, 0.125, 0.0),
]


@pytest.mark.parametrize(("kind", "nesterov", "decay", "clip"), CASES)
def test_every_leaf_changes_according_to_its_rule(kind, nesterov, decay, clip):
    """Six steps of fixed gradients with warmup and cosine decay, in float64: each leaf follows its own learning rate.

    Kernels have weight decay; for adamw, lamb and lion, it is multiplied by the learning rate of the leaf. The norm for
    clipping is over all trainable leaves, whatever their learning rates.
    """
    training, layers, rates, groups = resolved(
        **{
            "optimizer.name": kind,
            "optimizer.nesterov": nesterov,
            "optimizer.weight_decay": decay,
            "optimizer.clip_norm": clip,
        }
    )
    assert rates["head/bias"] == 0.5 and rates["stage2/block1/conv1/kernel"] == 0.5 * 0.25 * 0.5
    assert rates["stage2/block1/bn1/scale"] == 0.125 * 0.5 and rates["stage1/block1/bn1/bias"] == "frozen"
    assert rates["stage1/block1/conv1/kernel"] == 0.125 * 0.25 and rates["stem/bn/scale"] == 0.5 * 2 * 0.125
    names = [name for name, _ in groups]
    start = draws(names)
    grads = [draws(names, seed) for seed in range(1, STEPS + 1)]
    clipped = []
    for step_grads in grads:
        norm = np.sqrt(sum((g**2).sum() for g in step_grads.values()))
        assert norm > 1
        clipped.append({name: g / norm * clip if clip else g for name, g in step_grads.items()})
    with jax.enable_x64(True):
        schedule = make_schedule(Schedule("cosine", STEPS, warmup_steps=2))
        factors = [float(schedule(jnp.int32(step))) for step in range(STEPS)]
        hparams = jax.tree.map(lambda x: x.astype(jnp.float64), make_hparams(training, layers))
        tx = make_tx(optimizer_of(training, groups))(hparams)
        params = {name: jnp.asarray(value) for name, value in start.items()}
        opt_state = tx.init(params)
        update = jax.jit(tx.update)
        for step_grads in grads:
            updates, opt_state = update(step_grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        for name in names:
            expected = moved_by_hand(
                kind,
                nesterov,
                [step_grads[name] for step_grads in clipped],
                start[name],
                [rates[name] * factor for factor in factors],
                decay if name.endswith("kernel") else 0.0,
            )
            assert (expected != start[name]).any()
            np.testing.assert_allclose(params[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "make_optax"),
    [
        ("adam", lambda: optax.adam(0.5, 0.75, 0.875)),
        ("lamb", lambda: optax.lamb(0.5, 0.75, 0.875, weight_decay=0.125)),
        ("lion", lambda: optax.lion(0.5, 0.75, 0.875, weight_decay=0.125)),
    ],
)
def test_optimizers_agree_with_optax(kind, make_optax):
    """One group with only kernels, because the optimizers of optax have no rules."""
    names = list(KERNELS)
    fields = {"optimizer.weight_decay": 0.125 * (kind != "adam"), "layers.rates": (), "layers.decay": 1.0}
    training, layers, _, _ = resolved(**{"optimizer.name": kind, "layers.backbone_learning_rate": None}, **fields)
    groups = tuple((name, layers[name].pattern) for name in names)
    jaxft_tx = make_tx(optimizer_of(training, groups, Schedule("constant", STEPS)))(make_hparams(training, layers))
    start = {name: jnp.asarray(value, jnp.float32) for name, value in draws(names).items()}
    ends = []
    for tx in (jaxft_tx, make_optax()):
        params, opt_state = start, tx.init(start)
        for seed in range(STEPS):
            grads = {name: jnp.asarray(value, jnp.float32) for name, value in draws(names, seed).items()}
            with jax.numpy_dtype_promotion("standard"):  # the optimizers of Optax need it
                updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        ends.append(params)
    for name in names:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-6)


def test_clipping_does_not_change_a_short_gradient():
    training, layers, _, groups = resolved(**{"optimizer.name": "sgd", "optimizer.clip_norm": 1000.0})
    free = resolved(**{"optimizer.name": "sgd"})[0]
    grads = {name: jnp.asarray(value, jnp.float32) for name, value in draws([n for n, _ in groups]).items()}
    found = []
    for one in (training, free):
        tx = make_tx(optimizer_of(one, groups))(make_hparams(one, layers))
        found.append(tx.update(grads, tx.init(grads), grads)[0])
    for name in grads:
        np.testing.assert_array_equal(found[0][name], found[1][name])


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb", "lion"])
def test_joining_leaves_start_with_zero_state_and_others_continue(kind):
    """Three steps train only the head, the next all leaves. Each leaf behaves as if trained alone from its first step.

    So the bias correction of Adam counts the steps of the leaf. The schedule is the same for all leaves.
    """
    training, layers, rates, groups = resolved(**{"optimizer.name": kind, "optimizer.weight_decay": 0.125})
    joined = {name: 3 * (not name.startswith("head")) for name, _ in groups}
    head = tuple((name, pattern) for name, pattern in groups if name.startswith("head"))
    start, grads = draws(list(joined)), [draws(list(joined), seed) for seed in range(1, STEPS + 1)]
    with jax.enable_x64(True):
        schedule = make_schedule(Schedule("cosine", STEPS, warmup_steps=2))
        factors = [float(schedule(jnp.int32(step))) for step in range(STEPS)]
        hparams = jax.tree.map(lambda x: x.astype(jnp.float64), make_hparams(training, layers))
        late = tuple((name, step) for name, step in joined.items() if step)
        first, second = (
            make_tx(optimizer_of(training, some, joined=of))(hparams) for some, of in ((head, ()), (groups, late))
        )
        params = {name: jnp.asarray(value) for name, value in start.items()}
        some = {name: params[name] for name, _ in head}
        opt_state = first.init(some)
        for step in range(3):
            updates, opt_state = first.update({name: grads[step][name] for name in some}, opt_state, some)
            some = optax.apply_updates(some, updates)
        params |= some
        opt_state = continue_opt_state(opt_state, second.init(params))
        for step in range(3, STEPS):
            updates, opt_state = second.update(grads[step], opt_state, params)
            params = optax.apply_updates(params, updates)
        for name, begin in joined.items():
            expected = moved_by_hand(
                kind,
                False,
                [step_grads[name] for step_grads in grads[begin:]],
                start[name],
                [rates[name] * factor for factor in factors[begin:]],
                0.125 if name.endswith("kernel") else 0.0,
            )
            np.testing.assert_allclose(params[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_effective_rate_is_divided_by_the_effective_number_of_steps_of_a_gradient():
    """An effective learning rate of 0.8 at momentum 0.75 is 0.2, also in the probe; multipliers do not change."""
    fields = {
        "optimizer.effective_learning_rate": 0.8,
        "layers.backbone_learning_rate": 0.4,
        "linear_probe.learning_rate": 1.6,
    }
    training = Training.of({"optimizer.momentum": 0.75, **fields})
    layers = resolve_layers(training, MODEL, list(SHAPES))
    hparams = make_hparams(training, layers)
    assert float(hparams.learning_rate) == pytest.approx(0.2)
    assert float(hparams.probe_learning_rate) == pytest.approx(0.4)
    assert float(hparams.multipliers[".*"]) == pytest.approx(0.5)
    rates = resolve_rates(training, layers, dict.fromkeys(SHAPES, 0))
    assert rates["head/bias"] == pytest.approx(0.2) and rates["stem/bn/scale"] == pytest.approx(0.1)
    assert training.optimizer.effective_rate == pytest.approx(0.8)
    assert Training.of(
        {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9}
    ).optimizer.effective_rate == pytest.approx(1.0)
    assert Training.of(
        {"optimizer.learning_rate": 0.1, "optimizer.name": "adamw"}
    ).optimizer.effective_rate == pytest.approx(0.1)


def test_a_constant_gradient_changes_weights_by_the_effective_rate_per_step():
    """This holds after many steps of a gradient of one, for any momentum."""
    for momentum in (0.0, 0.5, 0.9):
        training = Training.of({"optimizer.effective_learning_rate": 0.25, "optimizer.momentum": momentum})
        layers = resolve_layers(training, MODEL, ["head/bias"])
        optimizer = Optimizer("sgd", False, Schedule("constant", 200), (("head/bias", "head/.*"),))
        tx = make_tx(optimizer)(make_hparams(training, layers))
        ones = {"head/bias": jnp.ones(1)}
        opt_state = tx.init(ones)
        update = jax.jit(tx.update)
        for _ in range(150):
            updates, opt_state = update(ones, opt_state, ones)
        np.testing.assert_allclose(updates["head/bias"], -0.25, rtol=1e-5)


def test_labels_of_groups_are_distinct():
    """Leaves of one rule that join at different steps are two groups, with two step counts."""
    training, layers, _, groups = resolved(**{"optimizer.name": "adamw"})
    joined = tuple((name, 2) for name, _ in groups if name.startswith("stage2/block1/bn1"))
    tx = make_tx(optimizer_of(training, groups, joined=joined))(make_hparams(training, layers))
    state = tx.init({name: jnp.asarray(value, jnp.float32) for name, value in draws([n for n, _ in groups]).items()})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert len(paths) == len(set(paths))
    counts = [path for path in paths if "count" in path]
    assert len(counts) == 2 * (len({pattern for _, pattern in groups}) + 1)
    assert all(one != other for one, other in itertools.pairwise(sorted(counts)))
