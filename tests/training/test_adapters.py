"""LoRA: initial factors, merged kernels, and the first training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.core.paths import flatten, unflatten
from jaxft.models import create_model
from jaxft.training.adapters import A, B, adapter_names, adapter_shape, init_adapters, is_adapter, merge

KERNEL = "stage1/block1/conv1/kernel"


@pytest.fixture(scope="module")
def network():
    """Returns (model, flat params, batch_stats) of a small network."""
    model = create_model("cifar_resnet8", 3)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return model, flatten(variables["params"]), variables["batch_stats"]


def test_factors_are_named_after_their_layer():
    assert adapter_names(KERNEL) == ("stage1/block1/conv1/lora_a", "stage1/block1/conv1/lora_b")
    assert is_adapter(adapter_names(KERNEL)[0]) and not is_adapter(KERNEL)


@pytest.mark.parametrize(
    ("kernel", "a", "b"),
    [
        ((3, 3, 16, 32), (144, 4), (4, 32)),
        ((64, 10), (64, 4), (4, 10)),
        ((3, 3, 1, 96), (9, 4), (4, 96)),  # depthwise
        ((1, 1, 2, 96), (2, 2), (2, 96)),  # the rank is at most the smaller dimension
    ],
)
def test_shapes_by_hand(kernel, a, b):
    assert adapter_shape("x/lora_a", kernel, 4) == a and adapter_shape("x/lora_b", kernel, 4) == b


def test_initial_lora_network_is_bit_identical_to_the_pretrained_one(network):
    _, params, _ = network
    factors = init_adapters(adapter_names(KERNEL), params, 4, jax.random.key(1))
    merged = merge(params | factors, params, 7.0)
    assert merged.keys() == params.keys()
    assert all(np.array_equal(merged[name], params[name]) for name in params)
    assert np.std(factors[adapter_names(KERNEL)[0]]) == pytest.approx(1 / 12, rel=0.1)  # 3 * 3 * 16 = 144 inputs


def test_merged_update_equals_two_convolutions():
    rng = np.random.Generator(np.random.PCG64(0))
    kernel = rng.normal(size=(3, 3, 5, 6)).astype(np.float32)
    a, b = rng.normal(size=(45, 2)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)
    merged = merge({f"conv{A}": a, f"conv{B}": b}, {"conv/kernel": kernel}, 0.5)
    x = rng.normal(size=(2, 7, 7, 5)).astype(np.float32)

    def convolved(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=dims)

    apart = convolved(x, kernel) + 0.5 * convolved(convolved(x, a.reshape(3, 3, 5, 2)), b.reshape(1, 1, 2, 6))
    np.testing.assert_allclose(convolved(x, merged["conv/kernel"]), apart, rtol=1e-4, atol=1e-4)


def test_without_factors_merge_returns_the_parameters(network):
    _, params, _ = network
    assert merge(params, {}, 1.0) == params


@pytest.mark.slow
def test_first_step_changes_only_b(network):
    """dL/dA = scale dL/dW B' is zero while B is; dL/dB = scale A' dL/dW is not."""
    model, params, batch_stats = network
    factors = init_adapters(adapter_names(KERNEL), params, 2, jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 3))

    def loss(factors, scale):
        merged = params | merge(factors, params, scale)
        return jnp.square(model.apply({"params": unflatten(merged), "batch_stats": batch_stats}, images)).sum()

    def of_kernel(kernel):
        changed = unflatten(params | {KERNEL: kernel})
        return jnp.square(model.apply({"params": changed, "batch_stats": batch_stats}, images)).sum()

    (a, b), towards_kernel = adapter_names(KERNEL), jax.grad(of_kernel)(params[KERNEL])
    grads = jax.grad(loss)(factors, 3.0)
    assert not np.any(grads[a])
    expected = 3.0 * factors[a].T @ towards_kernel.reshape(144, 16)
    np.testing.assert_allclose(grads[b], expected, rtol=1e-3, atol=1e-3 * float(abs(expected).max()))
