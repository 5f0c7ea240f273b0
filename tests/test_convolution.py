"""Convolutions against XLA's own: values and all gradients, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.convolution import convolve, depthwise, pointwise

NUMBERS = ("NHWC", "HWIO", "NHWC")
LANES = 3


def arrays(shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def xla(x, k, strides, padding, rhs_dilation=None, groups=1):
    return jax.lax.conv_general_dilated(x, k, strides, padding, None, rhs_dilation, NUMBERS, groups)


def ours(x, k, strides, padding, rhs_dilation=None, groups=1):
    return convolve(x, k, strides, padding, None, rhs_dilation, NUMBERS, groups)


def agree(found, expected, tolerance=1e-12):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.abs(b).max(initial=0)), 1e-3))


def loss_of(function):
    """Returns a scalar function of both arguments whose gradients depend on both."""
    return lambda x, k: jnp.sin(function(x, k)).sum()


CASES = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(3, 7), st.integers(3, 7)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.sampled_from(["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))]),
        "dilation": st.sampled_from([None, (1, 2), (2, 1)]),
        "groups": st.sampled_from([1, 2]),
    }
)


def case_of(case):
    """Returns (x, k, keyword arguments) of a case; None where nothing is left of the image."""
    fields = {"strides": case["strides"], "padding": case["padding"], "rhs_dilation": case["dilation"]}
    fields["groups"] = case["groups"]
    x, k = arrays([(LANES, 2, *case["size"], 4), (LANES, *case["kernel"], 4 // case["groups"], 6)])
    return x, k, fields


@settings(max_examples=20, deadline=None)
@given(CASES)
def test_values_and_gradients_are_xlas(case):
    with jax.enable_x64(True):
        x, k, fields = case_of(case)
        mine, theirs = (loss_of(lambda x, k, f=f: f(x, k, **fields)) for f in (ours, xla))
        agree(jax.value_and_grad(mine, (0, 1))(x[0], k[0]), jax.value_and_grad(theirs, (0, 1))(x[0], k[0]))


@settings(max_examples=10, deadline=None)
@given(CASES, st.sampled_from([(0, 0), (0, None), (None, 0)]))
def test_under_vmap_in_either_order_with_grad(case, axes):
    with jax.enable_x64(True):
        x, k, fields = case_of(case)
        args = [array if axis == 0 else array[0] for array, axis in zip((x, k), axes)]

        def transformed(function):
            each = loss_of(lambda x, k: function(x, k, **fields))
            of_grads = jax.jit(jax.vmap(jax.value_and_grad(each, (0, 1)), in_axes=axes))
            of_all = jax.grad(lambda x, k: jax.vmap(each, in_axes=axes)(x, k).sum(), (0, 1))
            return of_grads(*args), jax.jit(of_all)(*args)

        agree(transformed(ours), transformed(xla))


@pytest.mark.parametrize("function", [ours, xla], ids=["ours", "xla"])
def test_the_case_by_hand(function):
    """Of [[1, 2], [3, 4]] with the kernel [[1, 10], [100, 1000]], without padding: 1 + 20 + 300 + 4000."""
    x, k = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1), jnp.array([[1.0, 10], [100, 1000]]).reshape(2, 2, 1, 1)
    assert function(x, k, (1, 1), "VALID").item() == 4321


def test_second_derivatives_are_xlas():
    with jax.enable_x64(True):
        x, k = arrays([(2, 5, 5, 3), (3, 3, 3, 4)])

        def curvature(function):
            each = loss_of(lambda x, k: function(x, k, (2, 2), ((1, 1), (1, 1))))

            def steepness(x, k):
                return sum((g**2).sum() for g in jax.grad(each, (0, 1))(x, k))

            kernels = jnp.stack([k, 2 * k])
            return jax.grad(steepness, (0, 1))(x, k), jax.vmap(jax.grad(steepness), (None, 0))(x, kernels)

        agree(curvature(ours), curvature(xla))


def test_two_vmaps_of_both_arguments():
    with jax.enable_x64(True):
        x, k = arrays([(2, LANES, 2, 5, 5, 3), (2, LANES, 3, 3, 3, 4)])
        mine, theirs = (
            jax.vmap(jax.vmap(jax.grad(loss_of(lambda x, k, f=f: f(x, k, (1, 1), "SAME")), (0, 1))))(x, k)
            for f in (ours, xla)
        )
        agree(mine, theirs)


def test_under_pmap():
    x, k = arrays([(LANES, 2, 5, 5, 3), (LANES, 3, 3, 3, 4)], dtype=np.float32)
    mine, theirs = (
        jax.pmap(jax.grad(loss_of(lambda x, k, f=f: f(x, k, (1, 1), "SAME")), (0, 1)))(x, k) for f in (ours, xla)
    )
    agree(mine, theirs, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_every_dtype_stays_itself(dtype):
    x, k = arrays([(LANES, 2, 6, 6, 3), (LANES, 3, 3, 3, 4)], dtype=dtype)
    mine, theirs = (jax.vmap(lambda x, k, f=f: f(x, k, (1, 1), "SAME"))(x, k) for f in (ours, xla))
    agree(mine.astype(jnp.float32), theirs.astype(jnp.float32), 1e-2 if dtype != jnp.float32 else 1e-6)
    assert mine.dtype == dtype


def test_no_grouped_convolution_is_left_under_vmap_on_a_cpu():
    """Which is what makes `vmap` over networks several times slower than one network after another."""
    x, k = arrays([(LANES, 2, 6, 6, 3), (LANES, 3, 3, 3, 4)], dtype=np.float32)

    def groups(function):
        step = jax.vmap(jax.grad(loss_of(lambda x, k: function(x, k, (1, 1), "SAME")), (0, 1)))
        text = str(jax.make_jaxpr(step)(x, k))
        return f"feature_group_count={LANES}" in text or f"batch_group_count={LANES}" in text

    assert groups(xla) and not groups(ours)


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(3, 7), st.integers(3, 7)),
    st.sampled_from([1, 3, 5]),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from(["SAME", ((1, 1), (1, 1)), ((2, 0), (1, 3))]),
    st.booleans(),
)
def test_depthwise_is_xlas(size, kernel, strides, padding, batched):
    with jax.enable_x64(True):
        x, k = arrays([(LANES, 2, *size, 4), (LANES, kernel, kernel, 1, 4)])
        numbers = jax.lax.conv_dimension_numbers(x.shape[1:], k.shape[1:], NUMBERS)
        if padding != "SAME" and any(s + p[0] + p[1] < kernel for s, p in zip(size, padding)):
            return  # nothing is left of the image

        def gradients(function):
            each = loss_of(lambda x, k: function(x, k, strides, padding, (1, 1), (1, 1), numbers, 4))
            grads = jax.value_and_grad(each, (0, 1))
            return jax.vmap(grads)(x, k) if batched else grads(x[0], k[0])

        agree(gradients(depthwise), gradients(jax.lax.conv_general_dilated))


def test_pointwise_is_xlas():
    with jax.enable_x64(True):
        x, k = arrays([(LANES, 2, 5, 4, 3), (LANES, 1, 1, 3, 6)])
        mine, theirs = (
            jax.vmap(jax.value_and_grad(loss_of(f), (0, 1)))(x, k)
            for f in (pointwise, lambda x, k: xla(x, k, (1, 1), "VALID"))
        )
        agree(mine, theirs)
