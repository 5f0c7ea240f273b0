"""What a plug-in registers acts in a step: an optimizer, a schedule, a loss, regularizers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.test_step import MODEL, SIZE, Trial

from jaxft.core.registries import LOSSES, OPTIMIZERS, REGULARIZERS, SCHEDULES
from jaxft.training.losses import Loss
from jaxft.training.regularizers.active import ActiveRegularizers, make_numbers, measure, measured_shapes
from jaxft.training.regularizers.base import Regularizer
from jaxft.training.source import Reference, SourceNeeds
from jaxft.training.step import make_train_step
from jaxft.training.targets import SingleLabel

PLAIN_SGD = {"optimizer.momentum": 0.0, "optimizer.learning_rate": 0.1, "batch_norm.statistics": "frozen"}


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """Forgets what a test registers."""
    for registry in (LOSSES, OPTIMIZERS, REGULARIZERS, SCHEDULES):
        monkeypatch.setattr(registry, "entries", dict(registry.entries))


def after_one_step(phase, trial, hparams=None, reference=None):
    state, frozen = trial.start(phase)
    step = jax.jit(make_train_step(phase))
    frozen = frozen._replace(reference=reference)
    return step(state, hparams or trial.hparams, trial.labels, trial.indices, frozen, trial.images)


def with_optimizer(phase, **fields):
    return dataclasses.replace(phase, optimizer=dataclasses.replace(phase.optimizer, **fields))


def test_an_optimizer_is_any_chain_of_optax():
    """Signs of the gradient: every leaf moves by the learning rate."""
    OPTIMIZERS.register("signs", lambda numbers: [optax.scale_by_sign()], help="signSGD")
    trial = Trial(**PLAIN_SGD)
    after, _ = after_one_step(with_optimizer(trial.phase, kind="signs"), trial)
    for name, leaf in after.params.items():
        moved = np.abs(np.asarray(leaf - trial.params[name]))
        assert np.isclose(moved, 0.1, rtol=1e-4).all() or (moved[~np.isclose(moved, 0.1, rtol=1e-4)] == 0).all(), name
    assert np.allclose(np.abs(after.params["head/bias"] - trial.params["head/bias"]), 0.1)


def test_a_schedule_is_a_function():
    SCHEDULES.register("half", lambda schedule, decay_factor: lambda step: jnp.float32(0.5), help="half the peak")
    trial = Trial(**PLAIN_SGD)
    schedule = dataclasses.replace(trial.phase.optimizer.schedule, shape="half")
    usual, _ = after_one_step(trial.phase, trial)
    half, _ = after_one_step(with_optimizer(trial.phase, schedule=schedule), trial)
    for name, start in trial.params.items():
        np.testing.assert_allclose(half.params[name] - start, (usual.params[name] - start) / 2, atol=1e-6)


def test_a_loss_is_a_function_of_logits_and_labels():
    """Minus the logit of the right class: the bias of each class moves by its share of the batch."""

    def minus_own_logit(logits, labels, hparams=None):
        return -jnp.take_along_axis(logits, labels.reshape(-1, 1), axis=1)[:, 0]

    LOSSES.register("own_logit", Loss(minus_own_logit, minus_own_logit), help="minus the logit of the class")
    trial = Trial(**PLAIN_SGD)
    after, _ = after_one_step(dataclasses.replace(trial.phase, targets=SingleLabel("own_logit")), trial)
    shares = np.bincount(np.asarray(trial.labels[trial.indices[0]]), minlength=3) / 6
    np.testing.assert_allclose(after.params["head/bias"] - trial.params["head/bias"], 0.1 * shares, atol=1e-6)


class FeaturePull(Regularizer):
    """Pulls the pooled features to those of the source, and the head's bias down."""

    def options(self, training):
        return {"strength": 2.0}

    def static(self, options, scope):
        return "pool"

    def numbers(self, options):
        return {"strength": jnp.float32(options["strength"])}

    def outputs(self, static, model):
        return (static,)

    def source_needs(self, static, model):
        return SourceNeeds(maps=(static,))

    def measured_shapes(self, statics, model, size_px):
        return {"down": (model.num_classes,)}

    def measure(self, statics, images):
        return {"down": np.arange(3, dtype=np.float32)}

    def penalty(self, term, context):
        far = context.forward.outputs[term.static] - context.source_outputs[term.static]
        down = (context.params["head/bias"] * term.measured["down"]).sum()
        return term.numbers["strength"] * (far**2).mean() + down


def test_a_regularizer_is_one_object():
    """At the source its features have no pull, and the biases move by what was measured; away from it all moves."""
    trial = Trial(**PLAIN_SGD)
    REGULARIZERS.register("feature_pull", FeaturePull(), help="pull of pooled features")
    phase = Trial(**PLAIN_SGD).phase
    active = phase.regularizers
    assert active == ActiveRegularizers((("feature_pull", "pool"),))
    assert measured_shapes([active], MODEL, SIZE) == {"feature_pull": {"down": (3,)}}
    numbers = make_numbers(trial.training)
    assert numbers == {"feature_pull": {"strength": 2.0}}

    class Images:  # `measure` of this regularizer looks at none
        model, preprocessing = MODEL, trial.phase.preprocessing

    hparams = trial.hparams._replace(regularizers=numbers, measured=measure([active], Images))
    plain, _ = after_one_step(trial.phase, trial)
    at_source, _ = after_one_step(phase, trial, hparams, Reference(trial.params, trial.stats))
    for name in trial.params:
        expected = plain.params[name] - (0.1 * np.arange(3) if name == "head/bias" else 0)
        np.testing.assert_allclose(at_source.params[name], expected, atol=1e-6, err_msg=name)
    elsewhere = {name: leaf * 1.1 for name, leaf in trial.params.items()}
    away, _ = after_one_step(phase, trial, hparams, Reference(elsewhere, trial.stats))
    assert not np.allclose(away.params["stem/conv/kernel"], plain.params["stem/conv/kernel"], atol=1e-6)
    np.testing.assert_allclose(away.params["head/kernel"], plain.params["head/kernel"], atol=1e-6)


class Doubled(Regularizer):
    """Noise: the branch of every residual block counts twice."""

    is_random = True

    def options(self, training):
        return ()

    def add_noise(self, noise, term, model, draw):
        return noise._replace(branch_factors=dict.fromkeys(model.residual_blocks, jnp.float32(2)))


def test_noise_reaches_the_forward_pass():
    trial = Trial(**PLAIN_SGD)
    REGULARIZERS.register("doubled", Doubled(), help="branches count twice")
    active = ActiveRegularizers((("doubled", ()),))
    assert active.is_random and make_numbers(trial.training) == {}
    _, plain = after_one_step(trial.phase, trial)
    _, doubled = after_one_step(dataclasses.replace(trial.phase, regularizers=active), trial)
    assert plain.loss != doubled.loss
