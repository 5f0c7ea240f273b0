"""Activations at the taps of a network."""

import jax
import numpy as np
import pytest

from jaxft.models import create_model
from jaxft.models.taps import LOGITS, make_apply


@pytest.mark.parametrize("name", ["toy", "toy_lite", "squeezenet1_1"])
def test_activations_are_the_outputs_of_the_blocks(name):
    model = create_model(name, 3)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    activations = jax.jit(make_apply(model, with_logits=True))(variables, images)
    assert list(make_apply(model)(variables, images)) == [tap.name for tap in model.taps]
    for tap in model.taps:
        expected = model.apply(variables, images, stop=tap.block)
        np.testing.assert_allclose(activations[tap.name], expected, rtol=1e-4, atol=1e-4)

    np.testing.assert_allclose(activations[LOGITS], model.apply(variables, images), rtol=1e-4, atol=1e-4)
