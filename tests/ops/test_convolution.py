"""Convolutions against those of XLA: values and derivatives under all transformations, and calls in programs."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.core.devices import num_cores
from jaxft.core.errors import UserError
from jaxft.ops import convolution, onednn
from jaxft.ops.convolution import conv_general_dilated, use

NUMBERS = ("NHWC", "HWIO", "NHWC")
TRIALS = 3
CALL = "jaxft_convolve"
ROUNDING = 1e-5  # float32 against float64, of the largest value

pytestmark = pytest.mark.usefixtures("needs_onednn")  # without it they would compare XLA with itself


def arrays(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def xla(x, k, strides=(1, 1), padding="SAME", rhs_dilation=None, groups=1, lhs_dilation=None):
    return jax.lax.conv_general_dilated(x, k, strides, padding, lhs_dilation, rhs_dilation, NUMBERS, groups)


def ours(x, k, strides=(1, 1), padding="SAME", rhs_dilation=None, groups=1, lhs_dilation=None):
    return conv_general_dilated(x, k, strides, padding, lhs_dilation, rhs_dilation, NUMBERS, groups)


def by_numpy(x, k, strides=(1, 1), padding="SAME", rhs_dilation=None, groups=1):
    """Returns (the convolution, a function from its cotangent to the gradients of both), from the definition."""
    x, k = (np.asarray(array, np.float64) for array in (x, k))
    dilation = rhs_dilation or (1, 1)
    reach = [(size - 1) * step + 1 for size, step in zip(k.shape, dilation)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    sides = [max((size - r) // stride + 1, 0) for size, r, stride in zip(padded.shape[1:], reach, strides)]
    groups_of_x = padded.reshape(*padded.shape[:3], groups, -1)
    groups_of_k = k.reshape(*k.shape[:3], groups, -1)
    places = {}  # of the kernel: the pixels that it meets
    for at in np.ndindex(*k.shape[:2]):
        rows, columns = (
            slice(i * step, i * step + side * stride, stride)
            for i, step, side, stride in zip(at, dilation, sides, strides)
        )
        places[at] = slice(None), rows, columns
    met = {at: groups_of_x[place][:, : sides[0], : sides[1]] for at, place in places.items()}
    out = sum(np.einsum("nhwgc,cgf->nhwgf", met[at], groups_of_k[at]) for at in met)

    def pull(cotangent):
        cotangent = np.asarray(cotangent, np.float64).reshape(out.shape)
        of_x, of_k = np.zeros_like(groups_of_x), np.zeros_like(groups_of_k)
        for at, place in places.items():
            of_x[place] += np.einsum("nhwgf,cgf->nhwgc", cotangent, groups_of_k[at])
            of_k[at] = np.einsum("nhwgc,nhwgf->cgf", met[at], cotangent)
        (top, _), (left, _) = padding
        of_x = of_x.reshape(padded.shape)[:, top : top + x.shape[1], left : left + x.shape[2]]
        return of_x, of_k.reshape(k.shape)

    return out.reshape(*out.shape[:3], k.shape[3]), pull


def loss_of(function):
    """Returns a scalar function of both arguments whose gradients depend on both."""
    return lambda x, k: jnp.sin(0.3 * function(x, k)).sum()


def assert_close(found, expected, tolerance=ROUNDING):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(np.abs(b).max(initial=0)), 1e-3))


def in_float64(function, *args):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*(np.asarray(arg, np.float64) for arg in args)))


def calls(function, *args):
    """Returns the number of oneDNN calls in the compiled `function`."""
    return jax.jit(function).lower(*args).compile().as_text().count(f'custom_call_target="{CALL}')


CASES = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(3, 17), st.integers(3, 17)),
        "kernel": st.sampled_from([(3, 3), (1, 1), (2, 3), (1, 2), (5, 5), (7, 7)]),
        "strides": st.sampled_from([(1, 1), (2, 2), (1, 3), (2, 1)]),
        "padding": st.sampled_from(["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))]),
        "dilation": st.sampled_from([None, (1, 2)]),
        "channels": st.sampled_from([(3, 16), (4, 4), (16, 32), (20, 12)]),
        "groups": st.sampled_from(["one", "two", "depthwise"]),
    }
)


def drawn(case, num_trials=TRIALS):
    """Returns (images, kernels, keyword arguments) with a first axis of trials."""
    inputs, features = case["channels"]
    groups = {"one": 1, "two": 2, "depthwise": features}[case["groups"]]
    inputs = features if case["groups"] == "depthwise" else inputs + inputs % groups
    fields = {"strides": case["strides"], "padding": case["padding"], "rhs_dilation": case["dilation"]}
    shapes = (num_trials, 2, *case["size"], inputs), (num_trials, *case["kernel"], inputs // groups, features)
    return *arrays(shapes), fields | {"groups": groups}


@settings(max_examples=60)
@given(CASES)
@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_definition_in_float64(case):
    x, k, fields = drawn(case, 1)
    expected, expected_grads = by_numpy(x[0], k[0], **fields)
    (cotangent,) = arrays([expected.shape], seed=1)

    def all_three(x, k, cotangent):
        out, pull = jax.vjp(lambda x, k: ours(x, k, **fields), x, k)
        return out, pull(cotangent)

    assert_close(jax.jit(all_three)(x[0], k[0], cotangent), (expected, expected_grads(cotangent)))


@settings(max_examples=15)
@given(CASES, st.sampled_from([(0, 0), (0, None), (None, 0)]))
@pytest.mark.slow
def test_under_vmap_in_either_order_with_grad(case, axes):
    x, k, fields = drawn(case)
    args = [array if axis == 0 else array[0] for array, axis in zip((x, k), axes)]
    each = loss_of(lambda x, k: ours(x, k, **fields))

    def both(x, k):
        of_grads = jax.vmap(jax.grad(each, (0, 1)), in_axes=axes)(x, k)
        return of_grads, jax.grad(lambda x, k: jax.vmap(each, in_axes=axes)(x, k).sum(), (0, 1))(x, k)

    expected = []
    for lane in range(TRIALS):
        out, pull = by_numpy(*(array[lane] if axis == 0 else array for array, axis in zip(args, axes)), **fields)
        expected.append(pull(0.3 * np.cos(0.3 * out)))
    of_trials = [np.stack(grads) for grads in zip(*expected)]
    of_sums = [grads if axis == 0 else grads.sum(0) for grads, axis in zip(of_trials, axes)]
    assert_close(jax.jit(both)(*args), (of_trials, of_sums))


@pytest.mark.parametrize("function", [ours, xla, lambda *args: by_numpy(*args)[0]], ids=["ours", "xla", "numpy"])
def test_the_case_by_hand(function):
    """Of [[1, 2], [3, 4]] with the kernel [[1, 10], [100, 1000]], without padding: 1 + 20 + 300 + 4000."""
    x, k = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1), jnp.array([[1.0, 10], [100, 1000]]).reshape(2, 2, 1, 1)
    assert function(x, k, (1, 1), "VALID").item() == 4321


def test_forward_mode_and_second_derivatives():
    x, k = arrays([(2, 6, 5, 3), (3, 3, 3, 4)])
    dx, dk = arrays([x.shape, k.shape], seed=1)

    def derivatives(function):
        each = loss_of(lambda x, k: function(x, k, (2, 2), ((1, 1), (1, 1))))
        gradient = jax.grad(each, (0, 1))

        def all_of_them(x, k, dx, dk):
            forward = jax.jvp(each, (x, k), (dx, dk))
            forward_over_reverse = jax.jvp(gradient, (x, k), (dx, dk))
            reverse_over_reverse = jax.grad(lambda x, k: sum((g**2).sum() for g in gradient(x, k)), (0, 1))(x, k)
            return forward, forward_over_reverse, reverse_over_reverse

        return all_of_them

    assert_close(jax.jit(derivatives(ours))(x, k, dx, dk), in_float64(derivatives(xla), x, k, dx, dk))


def test_two_vmaps_of_both_arguments():
    x, k = arrays([(2, TRIALS, 2, 5, 5, 3), (2, TRIALS, 3, 3, 3, 4)])

    def twice(function, inner, outer):
        return jax.vmap(jax.vmap(jax.grad(loss_of(function), (0, 1)), inner), outer)

    for inner, outer, args in [
        ((0, 0), (0, 0), (x, k)),
        ((0, None), (None, 0), (x[0], k[:, 0])),
        ((None, 0), (0, None), (x[:, 0], k[0])),
        ((0, 0), (None, 0), (x[0], k)),
    ]:
        assert_close(jax.jit(twice(ours, inner, outer))(*args), in_float64(twice(xla, inner, outer), *args))


def test_trials_with_one_kernel_join_the_batch_and_all_others_are_one_call():
    x, k = arrays([(TRIALS, 2, 6, 6, 3), (TRIALS, 3, 3, 3, 4)])
    joined = str(jax.make_jaxpr(jax.vmap(ours, (0, None)))(x, k[0]))
    assert f"images=({TRIALS * 2}, 6, 6, 3)" in joined and "broadcast_in_dim" in joined
    assert calls(jax.vmap(ours, (0, None)), x, k[0]) == 1
    assert calls(jax.vmap(ours), x, k) == 1
    assert calls(jax.vmap(jax.grad(loss_of(ours), (0, 1))), x, k) == 3


def test_under_pmap():
    x, k = arrays([(TRIALS, 2, 5, 5, 3), (TRIALS, 3, 3, 3, 4)])
    found = jax.pmap(jax.grad(loss_of(ours), (0, 1)))(x, k)
    assert_close(found, in_float64(jax.vmap(jax.grad(loss_of(xla), (0, 1))), x, k))


@pytest.mark.parametrize("check_vma", [False, True])
def test_eight_devices_in_parallel_give_the_sequential_results(check_vma):
    """Many times: scratch memory that two devices shared would give wrong sums now and then, with no error.

    With the check it is XLA's convolution, once.
    """
    x, k = arrays([(8, 4, 12, 12, 16), (8, 3, 3, 16, 16)])
    step = jax.vmap(jax.grad(loss_of(ours), (0, 1)))
    each = PartitionSpec("devices")
    mesh = Mesh(np.asarray(jax.devices()), ("devices",))
    at_once = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=each, out_specs=each, check_vma=check_vma))
    sequential = [jax.jit(step)(x[i : i + 1], k[i : i + 1]) for i in range(8)]
    expected = jax.tree.map(lambda *leaves: np.concatenate(leaves), *sequential)
    assert calls(at_once, x, k) == (0 if check_vma else 3)
    for _ in range(1 if check_vma else 200):
        for found, one in zip(at_once(x, k), expected):
            if check_vma:
                assert_close(found, one)
            else:
                np.testing.assert_array_equal(found, one)


def test_a_batch_that_xla_partitions_is_never_gathered():
    x, k = arrays([(16, 12, 12, 16), (3, 3, 16, 16)])
    mesh = Mesh(np.asarray(jax.devices()), ("devices",))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("devices")))
    whole = jax.device_put(k, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(jax.grad(loss_of(ours), (0, 1)))
    text = step.lower(split, whole).compile().as_text()
    assert "all-gather" not in text and CALL not in text
    assert_close(step(split, whole), in_float64(jax.grad(loss_of(xla), (0, 1)), x, k))


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_exported_programs_use_xla_convolutions(platform):
    x, k = arrays([(2, 6, 6, 3), (3, 3, 3, 4)])
    step = jax.jit(jax.grad(loss_of(ours), (0, 1)))
    assert calls(step, x, k) == 3
    exported = jax.export.export(step, platforms=[platform])(x, k)
    assert "custom_call" not in exported.mlir_module()
    if platform == "cpu":
        assert_close(exported.call(x, k), step(x, k))


def test_a_batch_of_any_size_is_exported():
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, 8, 8, 3), (3, 3, 3, 4))]
    exported = jax.export.export(jax.jit(ours))(*shapes)
    x, k = arrays([(2, 8, 8, 3), (3, 3, 3, 4)])
    assert_close(exported.call(x, k), ours(x, k))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_the_output_has_the_dtype_of_the_input(dtype):
    with jax.enable_x64(True):
        x, k = arrays([(TRIALS, 2, 6, 6, 3), (TRIALS, 3, 3, 3, 4)], dtype=dtype)
        found, expected = jax.vmap(ours)(x, k), jax.vmap(xla)(*(a.astype(jnp.float64) for a in (x, k)))
        assert found.dtype == dtype
        assert_close(found.astype(jnp.float64), expected, float(jnp.finfo(dtype).eps) * 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"padding": ((-1, 1), (1, 1))},
        {"padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 2)},
        {"padding": ((0, 0), (0, 0)), "rhs_dilation": (4, 4)},  # wider than the images: nothing is left
    ],
)
def test_xla_computes_windows_that_onednn_does_not_support(fields):
    x, k = arrays([(2, 6, 6, 3), (3, 3, 3, 4)])
    assert calls(lambda x, k: ours(x, k, **fields), x, k) == 0
    np.testing.assert_array_equal(ours(x, k, **fields), xla(x, k, **fields))


def test_an_empty_batch():
    x, k = arrays([(0, 6, 6, 3), (3, 3, 3, 4)])
    assert ours(x, k).shape == (0, 6, 6, 4)
    assert not jax.grad(loss_of(ours), 1)(x, k).any()


def test_nan_and_infinity_propagate():
    x, k = arrays([(1, 4, 4, 16), (1, 1, 16, 16)])
    found = np.asarray(ours(x.at[0, 0, 0, 0].set(jnp.nan).at[0, 3, 3, 0].set(jnp.inf), k))
    assert np.isnan(found[0, 0, 0]).all() and np.isinf(found[0, 3, 3]).all() and np.isfinite(found[0, 1, 1]).all()


# --- the choice -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_selection_applies_to_programs_compiled_in_its_context():
    x, k = arrays([(2, 6, 6, 3), (3, 3, 3, 4)])
    traced = []

    @jax.jit
    def run(x, k):
        traced.append(1)
        return ours(x, k)

    run(x, k)
    with use("auto"):
        run(x, k)
    assert len(traced) == 1, "the same selection keeps what is compiled"
    with use("xla"):
        assert convolution.implementation() == ("XLA", 0)
        assert CALL not in run.lower(x, k).compile().as_text()
        np.testing.assert_array_equal(run(x, k), xla(x, k))
    assert CALL in run.lower(x, k).compile().as_text()
    name, threads = convolution.implementation()
    assert name.startswith("oneDNN 3.2.0 ") and threads == 1, "eight forced devices share the cores"


def test_xla_computes_convolutions_without_onednn(monkeypatch):
    def unavailable():
        raise onednn.Unavailable("no C++ compiler, such as g++, is installed")

    monkeypatch.setattr(onednn, "load", unavailable)
    jax.clear_caches()
    x, k = arrays([(2, 6, 6, 3), (3, 3, 3, 4)])
    assert calls(jax.grad(loss_of(ours), (0, 1)), x, k) == 0
    np.testing.assert_array_equal(jax.jit(ours)(x, k), jax.jit(xla)(x, k))
    assert convolution.implementation() == ("XLA", 0)
    with use("onednn"), pytest.raises(UserError, match=r"is not available: no C\+\+ compiler"):
        convolution.implementation()
    jax.clear_caches()


WITH_A_TEAM = """
import os, threading, jax, jax.numpy as jnp, numpy as np
{before}
from jaxft.ops import onednn
from jaxft.ops.convolution import conv_general_dilated
rng = np.random.default_rng(0)
x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((16, 16, 16, 32), (3, 3, 32, 32)))
numbers = ("NHWC", "HWIO", "NHWC")
def loss(f):
    return jax.jit(jax.grad(lambda x, k: jnp.sin(f(x, k, (1, 1), "SAME", None, None, numbers)).sum(), (0, 1)))
ours, expected = loss(conv_general_dilated), jax.tree.map(np.asarray, loss(jax.lax.conv_general_dilated)(x, k))
def agree():
    found = jax.tree.map(np.asarray, ours(x, k))
    assert all(np.abs(a - b).max() < 1e-5 * np.abs(b).max() for a, b in zip(found, expected))
agree()
threads = len(os.listdir("/proc/self/task"))
ready, counted = threading.Barrier(9), threading.Event()
def call():
    agree()
    ready.wait()
    counted.wait()  # the OpenMP team of a thread would end with it
callers = [threading.Thread(target=call) for _ in range(8)]
[caller.start() for caller in callers]
ready.wait(60)
more = len(os.listdir("/proc/self/task")) - threads - len(callers)
counted.set()
assert onednn.load().num_threads == {threads}, onednn.load()
assert more < len(callers) // 2, f"{{more}} further threads: a team for each thread that calls"
for line in {after}:
    exec(line)
    agree()
"""

OTHERS = {
    "sklearn": "import sklearn.linear_model as m; m.LogisticRegression().fit(np.eye(4), np.arange(4))",
    "torch": "import torch; torch.ones(64, 64) @ torch.ones(64, 64)",
}


@pytest.mark.slow
@pytest.mark.parametrize("first", ["jaxft", *OTHERS])
def test_there_is_one_team_of_threads_with_other_openmp_packages(first, monkeypatch):
    """Calls from eight threads start no more threads, whichever package with another OpenMP is loaded first."""
    if first != "jaxft":
        pytest.importorskip(first)
    after = [work for name, work in OTHERS.items() if first == "jaxft" and importlib.util.find_spec(name)]
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code = WITH_A_TEAM.format(before=OTHERS.get(first, ""), after=after, threads=min(2, num_cores()))
    subprocess.run([sys.executable, "-c", code], check=True)
