"""Batch norm and optimizers against committed results of PyTorch's: needs no torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from layers import LEARNING_RATES, NUM_STEPS, OPTIMIZERS, draw_batch_norm, draw_quadratic, read_reference

from jaxft.config import Training
from jaxft.models import create_model
from jaxft.models.layers import BatchNorm
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.optimizers import Optimizer, make_tx
from jaxft.training.schedules import Schedule


def test_batch_norm_is_torchs():
    """Gradient of a squared error, and running statistics, in float64."""
    theirs = read_reference()["batch_norm"]
    x, target = draw_batch_norm()
    with jax.enable_x64(True):
        norm = BatchNorm()
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), norm.init(jax.random.key(0), jnp.asarray(x)))

        def loss(x):
            y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
            return jnp.square(y - target).sum(), updated["batch_stats"]

        grad, stats = jax.grad(loss, has_aux=True)(jnp.asarray(x))
    assert theirs.keys() == {"gradient", "mean", "var"}
    np.testing.assert_allclose(grad, theirs["gradient"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats["mean"], theirs["mean"], rtol=1e-12)
    np.testing.assert_allclose(stats["var"], theirs["var"], rtol=1e-12)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_updates_are_torchs(case):
    """Five steps on a quadratic in float64, two groups with rates of their own, decay on the kernel alone."""
    theirs, fields, kind = read_reference()[case], OPTIMIZERS[case], case.partition(",")[0]
    start, scale = draw_quadratic()
    body, head = LEARNING_RATES["body/kernel"], LEARNING_RATES["head/bias"]
    training = Training.of(
        {
            "initialization.start": "random",
            "optimizer.name": kind,
            "optimizer.learning_rate": head,
            "layers.backbone_learning_rate": body,
            **fields,
        }
    )
    with jax.enable_x64(True):
        layers = resolve_layers(training, create_model("cifar_resnet8", 2), list(start))
        hparams = jax.tree.map(lambda x: x.astype(jnp.float64), make_hparams(training, layers))
        # The numbers are float32 as trials have them; exact ones make the comparison exact.
        exact = {"learning_rate": head, "weight_decay": fields.get("optimizer.weight_decay", 0.0)}
        exact |= {"momentum": training.optimizer.momentum, "beta2": training.optimizer.beta2}
        hparams = hparams._replace(**{name: jnp.float64(value) for name, value in exact.items()})
        hparams = hparams._replace(multipliers={"head/.*": jnp.float64(1), ".*": jnp.float64(body / head)})
        groups = tuple((name, match.pattern) for name, match in layers.items())
        schedule, decayed = Schedule("constant", NUM_STEPS), ("body/kernel",)
        tx = make_tx(Optimizer(kind, training.optimizer.nesterov, schedule, groups, decayed=decayed))(hparams)
        params = {name: jnp.asarray(value) for name, value in start.items()}
        opt_state = tx.init(params)
        for _ in range(NUM_STEPS):
            grads = {name: 2 * scale[name] * params[name] for name in params}
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    assert params.keys() == theirs.keys()
    for name in params:
        np.testing.assert_allclose(params[name], theirs[name], rtol=1e-12)
