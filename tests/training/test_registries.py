"""Entries of a plug-in act in a training step: an optimizer, a schedule, a loss, regularizers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.test_step import MODEL, SIZE, Trial

from jaxft.config.fields import setting
from jaxft.config.training.regularization import RegularizerConfig
from jaxft.core.errors import UserError
from jaxft.core.registries import LOSSES, OPTIMIZERS, REGULARIZERS, SCHEDULES
from jaxft.training.losses import Loss
from jaxft.training.regularizers.active import ActiveRegularizers, make_numbers, measure, measured_shapes
from jaxft.training.regularizers.base import Regularizer
from jaxft.training.source import SourceArrays, SourceNeeds
from jaxft.training.step import make_train_step

PLAIN_SGD = {"optimizer.momentum": 0.0, "optimizer.learning_rate": 0.1, "batch_norm.statistics": "frozen"}


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """Removes the entries that a test registers."""
    for registry in (LOSSES, OPTIMIZERS, REGULARIZERS, SCHEDULES):
        monkeypatch.setattr(registry, "entries", dict(registry.items()))


def after_one_step(phase, trial, hparams=None, source_arrays=None):
    state, frozen = trial.start(phase)
    step = jax.jit(make_train_step(phase))
    frozen = frozen._replace(source_arrays=source_arrays)
    return step(state, hparams or trial.hparams, trial.labels, trial.indices, frozen, trial.images)


def test_an_optimizer_can_be_any_chain_of_optax():
    """The update is the sign of the gradient: every leaf changes by the learning rate."""
    OPTIMIZERS.register("signs", lambda numbers: [optax.scale_by_sign()], help="signSGD")
    trial = Trial(**PLAIN_SGD, **{"optimizer.name": "signs"})
    after, _ = after_one_step(trial.phase, trial)
    for name, leaf in after.params.items():
        moved = np.abs(np.asarray(leaf - trial.params[name]))
        assert np.isclose(moved, 0.1, rtol=1e-4).all() or (moved[~np.isclose(moved, 0.1, rtol=1e-4)] == 0).all(), name
    assert np.allclose(np.abs(after.params["head/bias"] - trial.params["head/bias"]), 0.1)


def test_a_schedule_is_a_function():
    SCHEDULES.register("half", lambda schedule, decay_factor: lambda step: jnp.float32(0.5), help="half the peak")
    trial, halved = Trial(**PLAIN_SGD), Trial(**PLAIN_SGD, **{"schedule.shape": "half"})
    usual, _ = after_one_step(trial.phase, trial)
    half, _ = after_one_step(halved.phase, halved)
    for name, start in trial.params.items():
        np.testing.assert_allclose(half.params[name] - start, (usual.params[name] - start) / 2, atol=1e-6)


def test_a_loss_is_a_function_of_logits_and_labels():
    """The loss is minus the logit of the correct class: each bias changes by the fraction of its class in the batch."""

    def minus_own_logit(logits, labels, hparams=None):
        return -jnp.take_along_axis(logits, labels.reshape(-1, 1), axis=1)[:, 0]

    LOSSES.register("own_logit", Loss(minus_own_logit, minus_own_logit), help="minus the logit of the class")
    trial = Trial(**PLAIN_SGD, **{"loss.name": "own_logit"})
    after, _ = after_one_step(trial.phase, trial)
    shares = np.bincount(np.asarray(trial.labels[trial.indices[0]]), minlength=3) / 6
    np.testing.assert_allclose(after.params["head/bias"] - trial.params["head/bias"], 0.1 * shares, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Factor:
    """A section with one number."""

    factor: float = setting(1.0, "factor of the update, or of the loss", traced=True, above=0)


def test_the_section_of_an_optimizer_and_of_a_loss_is_traced():
    """A number of the section multiplies the update and the loss; another number uses the same program."""
    base = Trial(**PLAIN_SGD)
    OPTIMIZERS.register("scaled", lambda numbers: [optax.scale(numbers.section["factor"])], section=Factor)
    usual = LOSSES["cross_entropy"].value

    def train(logits, labels, hparams):
        return hparams.loss_numbers["factor"] * usual.train(logits, labels, hparams)

    LOSSES.register("scaled_loss", Loss(train, usual.evaluate), section=Factor)
    names = {"optimizer.name": "scaled", "loss.name": "scaled_loss"}
    trial = Trial(**PLAIN_SGD, **names, **{"optimizer.scaled.factor": 3.0, "loss.scaled_loss.factor": 0.5})
    other = Trial(**PLAIN_SGD, **names)
    assert trial.phase == other.phase and other.hparams.loss_numbers == {"factor": 1.0}
    plain, _ = after_one_step(base.phase, base)
    after, _ = after_one_step(trial.phase, trial)
    for name, start in base.params.items():
        np.testing.assert_allclose(after.params[name] - start, 1.5 * (plain.params[name] - start), atol=1e-6)


@dataclasses.dataclass(frozen=True)
class FeaturePullConfig(RegularizerConfig):
    """The section of a regularizer."""

    strength: float = setting(0.0, "strength of the pull", traced=True, at_least=0)
    source_fields = ("strength",)


class FeaturePull(Regularizer):
    """Penalizes the distance of the pooled features from those of the source, and the bias of the head."""

    def static(self, options, scope):
        return "pool"

    def numbers(self, options):
        return {"strength": jnp.float32(options.strength)}

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
    """At the source, only the biases change, by the measured array; away from the source, all leaves change."""
    trial = Trial(**PLAIN_SGD)
    REGULARIZERS.register("feature_pull", FeaturePull(), section=FeaturePullConfig, help="pull of pooled features")
    fields = {"regularization.feature_pull.strength": 2.0, "initialization.start": "pretrained"}
    pulled = Trial(**PLAIN_SGD, **fields)
    with pytest.raises(UserError, match=r"regularization.feature_pull.strength' needs source weights"):
        Trial(**fields | {"initialization.start": "random"})
    phase = pulled.phase
    active = phase.regularizers
    assert active == ActiveRegularizers((("feature_pull", "pool"),))
    assert measured_shapes([active], MODEL, SIZE) == {"feature_pull": {"down": (3,)}}
    numbers = pulled.hparams.regularizers
    assert numbers == {"feature_pull": {"strength": 2.0}} and make_numbers(trial.training) == {}

    class Images:  # `measure` of this regularizer uses no images
        model, preprocessing = MODEL, trial.phase.preprocessing

    hparams = trial.hparams._replace(regularizers=numbers, measured=measure([active], Images))
    plain, _ = after_one_step(trial.phase, trial)
    at_source, _ = after_one_step(phase, trial, hparams, SourceArrays(trial.params, trial.stats))
    for name in trial.params:
        expected = plain.params[name] - (0.1 * np.arange(3) if name == "head/bias" else 0)
        np.testing.assert_allclose(at_source.params[name], expected, atol=1e-6, err_msg=name)
    elsewhere = {name: leaf * 1.1 for name, leaf in trial.params.items()}
    away, _ = after_one_step(phase, trial, hparams, SourceArrays(elsewhere, trial.stats))
    assert not np.allclose(away.params["stem/conv/kernel"], plain.params["stem/conv/kernel"], atol=1e-6)
    np.testing.assert_allclose(away.params["head/kernel"], plain.params["head/kernel"], atol=1e-6)


@dataclasses.dataclass(frozen=True)
class DoubledConfig(RegularizerConfig):
    """The section of a regularizer that adds noise."""

    enabled: bool = setting(False, "whether branches count twice")
    activated_by = ("enabled",)


class Doubled(Regularizer):
    """Noise that doubles the branch of every residual block."""

    is_random = True

    def add_noise(self, noise, term, model, draw):
        return noise._replace(branch_factors=dict.fromkeys(model.residual_blocks, jnp.float32(2)))


def test_noise_reaches_the_forward_pass():
    trial = Trial(**PLAIN_SGD)
    REGULARIZERS.register("doubled", Doubled(), section=DoubledConfig, help="branches count twice")
    noisy = Trial(**PLAIN_SGD, **{"regularization.doubled.enabled": True})
    assert noisy.phase.regularizers.is_random and make_numbers(noisy.training) == {}
    _, plain = after_one_step(trial.phase, trial)
    _, doubled = after_one_step(noisy.phase, noisy)
    assert plain.loss != doubled.loss
