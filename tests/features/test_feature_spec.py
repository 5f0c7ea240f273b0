"""Feature specs: poolings of the output of one block, or of two."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.features.feature_spec import FeatureSpec
from jaxft.ops.pooling import POOLINGS, Pooling

MAP = jnp.asarray(np.random.Generator(np.random.PCG64(0)).normal(size=(2, 4, 4, 3)), jnp.float32)


def test_a_spec_lists_the_blocks_that_it_needs():
    outputs = {"a": MAP, "b": MAP[:, :2, :2], "flat": jnp.ones((2, 5))}
    assert FeatureSpec("flat", "average").features(outputs).shape == (2, 5)
    assert FeatureSpec("b", "cross_layer", "a").features(outputs).shape == (2, 9)
    assert FeatureSpec("b", "cross_layer", "a").blocks == ("a", "b")
    assert jax.eval_shape(FeatureSpec("a", "bilinear").features, outputs).shape == (2, 6)


def test_a_pooling_of_a_plug_in_works_like_others(request):
    POOLINGS.register("norm", Pooling(lambda x: jnp.sqrt(jnp.square(x).sum((1, 2)))))
    request.addfinalizer(lambda: POOLINGS.entries.pop("norm"))
    found = FeatureSpec("a", "norm").features({"a": jnp.asarray([3.0, 4.0]).reshape(1, 1, 2, 1)})
    np.testing.assert_allclose(found, [[5.0]])
