"""Training targets: single labels, and another kind of label through the same step and evaluation."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from training.test_step import MODEL, PLAIN, Trial

from jaxft.core import paths
from jaxft.training.step import make_train_step


@dataclass(frozen=True)
class SeveralLabels:
    """Any number of classes per image: labels are [n, classes], 0 or 1."""

    def losses(self, logits, labels, hparams):
        return optax.sigmoid_binary_cross_entropy(logits, jnp.float32(labels)).mean(-1)

    def predictions(self, logits):
        return logits > 0

    def is_correct(self, predictions, labels):
        return (predictions == (labels > 0)).all(-1)


def test_several_labels_per_image_need_no_other_step():
    """One step of plain SGD moves each leaf by the gradient of the mean binary cross-entropy of the batch."""
    trial = Trial(**{"optimizer.momentum": 0.0, "optimizer.learning_rate": 0.1, "batch_norm.statistics": "frozen"})
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 2, (12, 3)), jnp.int32)
    phase = dataclasses.replace(trial.phase, targets=SeveralLabels())
    state, frozen = trial.start(phase)
    step = jax.jit(make_train_step(phase))
    after, metrics = step(state, trial.hparams, labels, trial.indices, frozen, trial.images)
    rows = trial.indices[0]

    def loss(params):
        variables = {"params": paths.unflatten(params), "batch_stats": paths.unflatten(trial.stats)}
        logits = MODEL.apply(variables, PLAIN.apply(trial.images[rows]))
        return optax.sigmoid_binary_cross_entropy(logits, jnp.float32(labels[rows])).mean(), logits

    (expected, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trial.params)
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    assert metrics.accuracy == ((logits > 0) == (labels[rows] > 0)).all(-1).mean()
    for name, gradient in gradients.items():
        moved = np.asarray(trial.params[name] - after.params[name])
        np.testing.assert_allclose(moved, 0.1 * gradient, atol=1e-5, err_msg=name)
