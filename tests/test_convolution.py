"""Convolutions against XLA's own: values and all gradients, under every transformation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft import convolution
from jaxft.convolution import OPERATIONS, Case, Choices, Window, candidates, compute, convolve, rule, use

NUMBERS = ("NHWC", "HWIO", "NHWC")
LANES = 3


def arrays(shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def xla(x, k, strides, padding, rhs_dilation=None, groups=1):
    return jax.lax.conv_general_dilated(x, k, strides, padding, None, rhs_dilation, NUMBERS, groups)


def ours(x, k, strides, padding, rhs_dilation=None, groups=1):
    return convolve(x, k, strides, padding, None, rhs_dilation, NUMBERS, groups)


def window_of(images, kernel, strides, padding, rhs_dilation=None, groups=1):
    numbers = jax.lax.conv_dimension_numbers(images, kernel, NUMBERS)
    dilation = rhs_dilation or (1, 1)
    if isinstance(padding, str):
        reach = [(size - 1) * step + 1 for size, step in zip(kernel[:2], dilation)]
        padding = jax.lax.padtype_to_pads(images[1:3], reach, strides, padding)
    return Window(strides, tuple(map(tuple, padding)), (1, 1), dilation, numbers, groups, None)


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
        "kernel": st.sampled_from([(3, 3), (1, 1), (2, 3), (1, 2)]),
        "strides": st.sampled_from([(1, 1), (2, 2), (1, 3), (2, 1)]),
        "padding": st.sampled_from(["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))]),
        "dilation": st.sampled_from([None, (1, 2)]),
        "groups": st.sampled_from([1, 2, 4]),  # of four channels and features: 4 is depthwise
    }
)


def case_of(case):
    """Returns (x, k, keyword arguments) of a case; None where nothing is left of the image."""
    fields = {"strides": case["strides"], "padding": case["padding"], "rhs_dilation": case["dilation"]}
    fields["groups"] = case["groups"]
    x, k = arrays([(LANES, 2, *case["size"], 4), (LANES, *case["kernel"], 4 // case["groups"], 4)])
    return x, k, fields


@pytest.mark.slow
@settings(max_examples=12)
@given(CASES)
def test_values_and_gradients_are_xlas(case):
    with jax.enable_x64(True):
        x, k, fields = case_of(case)
        mine, theirs = (
            jax.jit(jax.value_and_grad(loss_of(lambda x, k, f=f: f(x, k, **fields)), (0, 1))) for f in (ours, xla)
        )
        agree(mine(x[0], k[0]), theirs(x[0], k[0]))


@pytest.mark.slow
@settings(max_examples=6)
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


@pytest.mark.slow
@settings(max_examples=20)
@given(CASES, st.sampled_from(OPERATIONS), st.sampled_from([0, LANES]))
def test_every_algorithm_is_xlas(case, operation, lanes):
    with jax.enable_x64(True):
        x, k, fields = case_of(case)
        x, k = (x, k) if lanes else (x[0], k[0])
        case = Case(operation, window_of(x.shape[-4:], k.shape[-4:], **fields), x.shape[-4:], k.shape[-4:], "float64")
        if lanes:
            case = dataclasses.replace(case, lanes=lanes, batched=(True, True))
        (out,) = arrays([(*x.shape[:-4], *case.output)], seed=1)
        args = {"output": (x, k), "images": (out, k), "kernel": (x, out)}[operation]
        expected = jax.jit(partial(compute, case, "xla"))(*args)
        for algorithm in candidates(case):
            agree(jax.jit(partial(compute, case, algorithm))(*args), expected)


@pytest.mark.parametrize("function", [ours, xla], ids=["ours", "xla"])
def test_the_case_by_hand(function):
    """Of [[1, 2], [3, 4]] with the kernel [[1, 10], [100, 1000]], without padding: 1 + 20 + 300 + 4000."""
    x, k = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1), jnp.array([[1.0, 10], [100, 1000]]).reshape(2, 2, 1, 1)
    assert function(x, k, (1, 1), "VALID").item() == 4321


@pytest.mark.slow
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


@pytest.mark.slow
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


# --- the choice -------------------------------------------------------------------------------------------------


def plain(operation="output", images=(8, 16, 16, 64), kernel=(3, 3, 64, 64), strides=(1, 1), lanes=0, groups=1):
    window = window_of(images, kernel, strides, "SAME", groups=groups)
    return Case(operation, window, images, kernel, "float32", lanes, (lanes > 0, lanes > 0))


def test_a_case_has_a_name_that_says_all_of_it():
    assert str(plain()) == "output float32 8x16x16x64 3x3x64x64 stride 1 1 padding 1 1 1 1"
    assert str(plain(lanes=4)).endswith("lanes 4 of both")
    assert str(plain(kernel=(3, 3, 1, 64), groups=64)).endswith("groups 64")


def test_costs_are_those_worked_out_by_hand():
    case = plain(strides=(2, 2), lanes=4)
    assert case.output == (8, 8, 8, 64)
    assert case.macs == 4 * 8 * 8 * 8 * 64 * 3 * 3 * 64
    assert case.patch_bytes == 4 * (8 * 8 * 8) * (3 * 3 * 64) * 4
    assert dataclasses.replace(case, operation="images").patch_bytes == 4 * (8 * 16 * 16) * (3 * 3 * 64) * 4


def test_patches_stay_within_their_budget():
    case = plain()
    assert "patches" in candidates(case, case.patch_bytes)
    assert "patches" not in candidates(case, case.patch_bytes - 1)
    assert "patches" in candidates(plain(kernel=(1, 1, 64, 64)), 0)  # of one place nothing is copied


def test_what_is_recorded_goes_before_what_is_measured_and_that_before_the_rule():
    case = plain()
    name, by_rule = str(case), rule(case, candidates(case))
    other = next(algorithm for algorithm in candidates(case) if algorithm != by_rule)
    third = next(algorithm for algorithm in candidates(case) if algorithm not in (by_rule, other))
    seconds = {by_rule: 1.0, other: 0.5, third: 2.0}
    assert Choices().choose(case) == by_rule
    assert Choices(measured={name: seconds}).choose(case) == other
    assert Choices(measured={name: seconds | {other: 0.95}}).choose(case) == by_rule, "not clearly faster"
    choices = Choices(measured={name: seconds}, recorded={name: third})
    assert choices.choose(case) == third
    assert Choices(override=other, recorded={name: third}).choose(case) == other
    assert Choices(override="groups").choose(case) == by_rule, "which cannot do it"
    fresh = Choices(measured={name: seconds})
    fresh.choose(case)
    assert fresh.recorded == {name: other}


def test_cases_are_measured_while_there_is_time_and_once(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_MACS", 1e6)
    said = []
    case, small = plain(images=(2, 16, 16, 64)), plain(images=(1, 4, 4, 4), kernel=(3, 3, 4, 4))
    choices = Choices(seconds=1e-9, say=said.append)
    choices.choose(small)
    assert not choices.measured, "too small to be worth it"
    choices.choose(case)
    assert choices.measured[str(case)].keys() == set(candidates(case))
    assert all(seconds > 0 for seconds in choices.measured[str(case)].values())
    choices.choose(case)
    choices.choose(plain(images=(3, 16, 16, 64)))
    assert len(said) == len(choices.measured) == 1, "the time is spent"


@pytest.mark.slow
def test_measuring_inside_of_transformations_leaves_the_values_alone(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_MACS", 1e6)
    x, k = arrays([(LANES, 4, 16, 16, 24), (LANES, 3, 3, 24, 24)], dtype=np.float32)
    with use(Choices(seconds=60)) as choices:
        found = jax.jit(jax.vmap(jax.grad(loss_of(lambda x, k: ours(x, k, (1, 1), "SAME")), (0, 1))))(x, k)
    assert len(choices.measured) == 6, "each of the three, of all lanes and of one"
    agree(found, jax.vmap(jax.grad(loss_of(lambda x, k: xla(x, k, (1, 1), "SAME")), (0, 1)))(x, k), 1e-4)


def test_what_was_compiled_for_other_choices_is_compiled_anew():
    x, k = arrays([(2, 6, 6, 3), (3, 3, 3, 4)], dtype=np.float32)
    traced = []

    @jax.jit
    def run(x, k):
        traced.append(1)
        return ours(x, k, (1, 1), "SAME")

    with use(Choices(override="patches")) as first:
        run(x, k)
        run(x, k)
    assert len(traced) == 1 and set(first.recorded.values()) == {"patches"}
    with use(Choices(override="shifts")) as second:
        run(x, k)
        with use(Choices(override="shifts")) as again:
            run(x, k)
    assert len(traced) == 2 and set(second.recorded.values()) == {"shifts"}
    assert again.recorded == second.recorded, "what was compiled before is recorded with every run that uses it"
