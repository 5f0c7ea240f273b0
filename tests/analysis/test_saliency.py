"""Gradients, guided backpropagation and Grad-CAM, against finite differences in float64, torch, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.analysis.activation_maximization import Ascent, maximize_activations
from jaxft.analysis.filter_images import filter_images
from jaxft.analysis.guided import guided
from jaxft.analysis.saliency import (
    grad_cam,
    gradient_saliency,
    image_gradients,
    normalized,
    over_runs,
    upsampled,
)
from jaxft.models import create_model

RNG = np.random.default_rng(5)
VARIABLES = {
    "first": RNG.normal(size=(3, 3, 3, 5)).astype(np.float32),
    "second": RNG.normal(size=(3, 3, 5, 4)).astype(np.float32),
    "head": RNG.normal(size=(4, 3)).astype(np.float32),
}
IMAGES = RNG.normal(size=(4, 8, 6, 3)).astype(np.float32)
CLASSES = np.array([0, 2, 1, 2])


def convolution(x, kernel, xp):
    """Returns a 3x3 convolution with padding 1 in NumPy or JAX, as a sum over shifts."""
    padded = xp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    shifts = ((i, j) for i in range(3) for j in range(3))
    return sum(xp.einsum("nhwc,cd->nhwd", padded[:, i : i + h, j : j + w], kernel[i, j]) for i, j in shifts)


def features(variables, images, xp=jnp):
    x = xp.maximum(convolution(images, variables["first"], xp), 0)[:, ::2, ::2]
    return xp.maximum(convolution(x, variables["second"], xp), 0)


def top(variables, activations, xp=jnp):
    return xp.tanh(activations * 0.3).mean((1, 2)) @ variables["head"]


def scores(variables, images, xp=jnp):
    return top(variables, features(variables, images, xp), xp)


def in_float64(function, at, step=1e-6):
    """Returns the gradient of the sum of `function(at)` by central differences, in NumPy."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)).sum() / (2 * step)
    return gradient


DOUBLE = {name: leaf.astype(np.float64) for name, leaf in VARIABLES.items()}


def of_class(y, classes):
    return y[np.arange(len(y)), classes]


# --- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_against_finite_differences():
    x = IMAGES[:2].astype(np.float64)
    expected = in_float64(lambda x: of_class(scores(DOUBLE, x, np), CLASSES[:2]), x)
    gradients = image_gradients(scores, VARIABLES, IMAGES[:2], CLASSES[:2])
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-5)
    saliency = gradient_saliency(scores, VARIABLES, IMAGES[:2], CLASSES[:2])
    np.testing.assert_allclose(saliency, np.abs(expected).max(-1), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_linear_network_is_its_kernel():
    kernel = RNG.normal(size=(8 * 6 * 3, 3)).astype(np.float32)
    gradients = image_gradients(lambda k, x: x.reshape(len(x), -1) @ k, kernel, IMAGES, CLASSES)
    np.testing.assert_allclose(gradients.reshape(4, -1), kernel[:, CLASSES].T, rtol=1e-6)


def test_images_of_a_batch_do_not_mix():
    together = gradient_saliency(scores, VARIABLES, IMAGES, CLASSES)
    alone = [gradient_saliency(scores, VARIABLES, IMAGES[i : i + 1], CLASSES[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-7)


def test_a_class_that_does_not_exist_has_nan():
    saliency = gradient_saliency(scores, VARIABLES, IMAGES, np.array([0, -1, 3, 1]))
    assert np.isnan(saliency).all((1, 2)).tolist() == [False, True, True, False]
    cams = grad_cam(features, top, VARIABLES, IMAGES, np.array([0, -1, 3, 1]))
    assert np.isnan(cams).any((1, 2)).tolist() == [False, True, True, False]


def test_wrong_shapes_of_scores_and_classes():
    with pytest.raises(ValueError, match=r"the scores have the shape \[4, 3\] and the classes \[2\]"):
        gradient_saliency(scores, VARIABLES, IMAGES, CLASSES[:2])
    with pytest.raises(ValueError, match=r"\[n\] integers"):
        gradient_saliency(scores, VARIABLES, IMAGES, CLASSES.astype(np.float32))


# --- Grad-CAM -------------------------------------------------------------------------------------------------------


def test_grad_cam_against_finite_differences():
    activations = features(DOUBLE, IMAGES.astype(np.float64), np)
    gradients = in_float64(lambda a: of_class(top(DOUBLE, a, np), CLASSES), activations)
    expected = np.maximum((activations * gradients.mean((1, 2), keepdims=True)).sum(-1), 0)
    maps = grad_cam(features, top, VARIABLES, IMAGES, CLASSES)
    assert maps.shape == (4, 4, 3) and (expected > 0).any()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_grad_cam_of_global_average_pooling_is_the_class_activation_map():
    # without tanh, alpha_k is the weight of channel k of the class, divided by the number of positions
    def linear_top(variables, activations):
        return activations.mean((1, 2)) @ variables["head"]

    maps = grad_cam(features, linear_top, VARIABLES, IMAGES, CLASSES)
    activations = np.asarray(features(VARIABLES, IMAGES))
    weighted = np.einsum("nhwc,cn->nhw", activations, VARIABLES["head"][:, CLASSES]) / 12
    np.testing.assert_allclose(maps, np.maximum(weighted, 0), rtol=1e-5, atol=1e-6)


def test_grad_cam_needs_positions():
    with pytest.raises(ValueError, match=r"shape \[4, 4\]; Grad-CAM needs"):
        grad_cam(lambda v, x: features(v, x).mean((1, 2)), lambda v, a: a @ v["head"], VARIABLES, IMAGES, CLASSES)


def test_grad_cam_of_a_network_of_jaxft():
    model = create_model("toy", 3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    images = IMAGES[:, :, [0, 1, 2, 3, 4, 5, 0, 1]]
    block = model.taps[-1].block
    maps = grad_cam(
        lambda v, x: model.apply(v, x, stop=block),
        lambda v, a: model.apply(v, a, after=block),
        variables,
        images,
        CLASSES,
    )
    activations = np.asarray(model.apply(variables, images, stop=block))
    kernel = np.asarray(variables["params"]["head"]["kernel"])[:, CLASSES]
    expected = np.maximum(np.einsum("nhwc,cn->nhw", activations, kernel) / activations[0, ..., 0].size, 0)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_saliency_and_grad_cam_against_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    kernels = {name: torch.tensor(VARIABLES[name].transpose(3, 2, 0, 1)) for name in ("first", "second")}
    x = torch.tensor(IMAGES.transpose(0, 3, 1, 2), requires_grad=True)

    class GuidedRelu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            return gradient.clamp(min=0) * (ctx.saved_tensors[0] > 0)

    def run(relu):
        a = relu(functional.conv2d(x, kernels["first"], padding=1))[:, :, ::2, ::2]
        a = relu(functional.conv2d(a, kernels["second"], padding=1))
        y = torch.tanh(a * 0.3).mean((2, 3)) @ torch.tensor(VARIABLES["head"])
        return a, y[torch.arange(4), torch.tensor(CLASSES)].sum()

    activations, score = run(functional.relu)
    by_image, by_activation = torch.autograd.grad(score, (x, activations))
    gradients = image_gradients(scores, VARIABLES, IMAGES, CLASSES)
    np.testing.assert_allclose(gradients, by_image.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    cam = functional.relu((by_activation.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True))
    wide = functional.interpolate(cam, (8, 6), mode="bilinear", align_corners=False)[:, 0]
    maps = upsampled(grad_cam(features, top, VARIABLES, IMAGES, CLASSES), (8, 6))
    np.testing.assert_allclose(maps, wide.detach(), rtol=1e-4, atol=1e-5)
    by_guided = torch.autograd.grad(run(GuidedRelu.apply)[1], x)[0].permute(0, 2, 3, 1)
    guided_gradients = image_gradients(guided(scores), VARIABLES, IMAGES, CLASSES)
    np.testing.assert_allclose(guided_gradients, by_guided, rtol=1e-4, atol=1e-5)
    assert np.abs(guided_gradients - gradients).max() > 0.01


# --- guided backpropagation -----------------------------------------------------------------------------------------


def test_guided_backpropagation_by_hand():
    # y = -relu(h1) + 2 relu(h2) with h1 = relu(x1), h2 = relu(x1 - x2), at x = (3, 1): h = (3, 2), dy/dh = (-1, 2).
    # Plain: dy/dx = (-1 + 2, -2). Guided: the gradient -1 of h1 stops, so (2, -2); -2 reaches x2, which has no ReLU.
    def y(_, x):
        h1, h2 = jax.nn.relu(x[:, :, :, 0]), jax.nn.relu(x[:, :, :, 0] - x[:, :, :, 1])
        return (-jax.nn.relu(h1) + 2 * jax.nn.relu(h2)).reshape(len(x), 1)

    x = np.array([3, 1], np.float32).reshape(1, 1, 1, 2)
    assert image_gradients(y, {}, x, np.array([0])).ravel().tolist() == [1, -2]
    assert image_gradients(guided(y), {}, x, np.array([0])).ravel().tolist() == [2, -2]
    assert image_gradients(guided(y), {}, np.abs(x[..., ::-1]) - 2, np.array([0])).ravel().tolist() == [0, 0]


RELUS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "maximum": lambda x: jnp.maximum(x, 0),
    "reversed": lambda x: jnp.maximum(0, x),
    "maximum of zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "clip": lambda x: jnp.clip(x, 0),
    "compiled": jax.jit(lambda x: jax.jit(jnp.maximum)(x, 0.0)),
    "checkpoint": jax.checkpoint(jax.nn.relu),
    "scan": lambda x: jax.lax.scan(lambda x, _: (jax.nn.relu(x), None), x, length=2)[0],
    "cond": lambda x: jax.lax.cond(x.sum() < 1e9, jax.nn.relu, jnp.negative, x),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_kind_of_relu_is_guided(name):
    x = jnp.array([-1.0, 2, 3, 0])
    weights = jnp.array([1.0, -1, 2, 3])

    def y(x):
        return RELUS[name](x) @ weights

    for differentiate in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        assert differentiate(guided(y))(x).tolist() == [0, 0, 2, 0]
    assert guided(y)(x) == y(x)


def test_other_functions_keep_their_values_and_gradients():
    def y(x):
        return (jax.nn.logsumexp(x) + jax.nn.softplus(x).sum() + jax.nn.gelu(x).sum() + jnp.max(x)) * jax.nn.relu(x[0])

    x = jnp.array([1.0, -80, 90])
    np.testing.assert_allclose(jax.grad(guided(y))(x), jax.grad(y)(x), rtol=1e-6)  # the ReLU has a positive gradient
    model = create_model("toy", 3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    images = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(guided(model.apply)(variables, images), model.apply(variables, images), rtol=1e-5)


def test_guided_gradients_of_positive_weights_are_the_gradients():
    positive = jax.tree.map(np.abs, VARIABLES)
    for function in (guided(scores), jax.jit(guided(scores))):
        found = gradient_saliency(function, positive, IMAGES, CLASSES)
        np.testing.assert_allclose(found, gradient_saliency(scores, positive, IMAGES, CLASSES), rtol=1e-5)


def test_a_network_without_relu_is_not_guided():
    with pytest.raises(ValueError, match="no ReLU"):
        guided(lambda x: jax.nn.gelu(x))(jnp.ones(3))
    with pytest.raises(ValueError, match="no ReLU"):
        guided(lambda x: jnp.maximum(x, 1))(jnp.ones(3))


# --- maps -----------------------------------------------------------------------------------------------------------


def test_upsampling_by_hand_and_normalization():
    # positions of four pixels in a row of two: 0, 0.25, 0.75, 1 of the way
    assert upsampled(jnp.array([[[0.0, 4.0]]]), (1, 4)).tolist() == [[[0, 1, 3, 4]]]
    maps = normalized(jnp.array([[[0.0, -4.0]], [[0.0, 0.0]]]))
    assert maps.tolist() == [[[0, -1]], [[0, 0]]]


def test_mean_over_runs_against_numpy():
    runs = jax.tree.map(lambda w: np.stack([w, 2 * w, -w]), VARIABLES)
    pictures = np.stack(
        [grad_cam(features, top, jax.tree.map(lambda w, i=i: w[i], runs), IMAGES, CLASSES) for i in range(3)]
    )
    result = over_runs(lambda v: grad_cam(features, top, v, IMAGES, CLASSES), runs)
    np.testing.assert_allclose(result.mean, pictures.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.std, pictures.std(0, ddof=1), rtol=1e-4, atol=1e-5)


def test_one_run_has_no_standard_deviation():
    result = over_runs(lambda v: v["w"] * 2, {"w": np.ones((1, 2))})
    assert result.mean.tolist() == [2, 2] and np.isnan(result.std).all()
    for variables in ({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, {"a": np.float32(1)}, {}, {"a": np.ones((0, 2))}):
        with pytest.raises(ValueError, match="leading axis"):
            over_runs(lambda v: v, variables)


# --- filters --------------------------------------------------------------------------------------------------------


def test_filter_images_by_hand():
    before, after = np.zeros((1, 2, 1, 2)), np.zeros((1, 2, 1, 2))
    before[0, :, 0, 0], after[0, :, 0, 0] = [2, -1], [4, -1]  # the scale of filter 0 is 4, that of filter 1 is 1
    after[0, :, 0, 1] = [1, 0]
    pictures = filter_images(before, after)
    assert pictures.before[:, 0, :, 0].tolist() == [[0.75, 0.375], [0.5, 0.5]]
    assert pictures.after[:, 0, :, 0].tolist() == [[1, 0.375], [1, 0.5]]
    assert pictures.difference[:, 0, :, 0].tolist() == [[1, 0.5], [0.75, 0.5]]
    assert pictures.weight_scales.tolist() == [4, 1] and pictures.difference_scale == 2


def test_filters_that_did_not_change_or_are_wrong():
    kernel = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)
    same = filter_images(kernel, kernel)
    assert (same.difference == 0.5).all() and same.difference_scale == 0 and (same.before == same.after).all()
    assert same.before.min() >= 0 and same.before.max() <= 1 and same.before.shape == (4, 3, 3, 3)
    for wrong in (kernel[..., :2], kernel * np.nan):
        with pytest.raises(ValueError, match="finite weights"):
            filter_images(kernel, wrong)


# --- activation maximization ----------------------------------------------------------------------------------------


def test_activation_maximization_beats_noise_of_equal_norm():
    ascent = Ascent(steps=60, total_variation=0)  # random kernels prefer high frequencies
    result = maximize_activations(features, VARIABLES, range(4), (8, 6, 3), jax.random.key(0), ascent)
    norms = np.sqrt(np.square(result.images).mean((1, 2, 3), keepdims=True))
    noise = RNG.normal(size=(20, *result.images.shape)).astype(np.float32) * norms[None]
    of_noise = np.stack([np.diagonal(np.asarray(features(VARIABLES, x)).mean((1, 2))) for x in noise])
    assert (result.activations > result.initial_activations).all()
    assert (result.activations > of_noise.max(0)).all()
    again = np.diagonal(np.asarray(features(VARIABLES, result.images)).mean((1, 2)))
    np.testing.assert_allclose(result.activations, again, rtol=1e-5)


def test_activation_maximization_of_a_linear_unit_is_its_kernel():
    # the ascent ends where g = l2 x, with g = w / rms(w); the scale of w has no effect
    kernel = RNG.normal(size=(2 * 2 * 1, 3)).astype(np.float32)
    ascent = Ascent(steps=400, jitter_px=0, l2=0.5, total_variation=0)

    def linear(kernel, x):
        return x.reshape(len(x), -1) @ kernel

    for scale in (1, 1e-20):
        kernels = kernel * np.float32(scale)
        result = maximize_activations(linear, kernels, [2, 0], (2, 2, 1), jax.random.key(1), ascent)
        w = kernel[:, [2, 0]].T
        expected = 2 * w / np.sqrt(np.square(w).mean(1, keepdims=True))
        np.testing.assert_allclose(result.images.reshape(2, 4), expected, rtol=1e-4)


def test_total_variation_by_hand():
    # one step of rate 1 from x, without an activation: x + D x, the sum of the differences from the neighbors
    ascent = Ascent(steps=1, rate=1, jitter_px=0, l2=0, total_variation=1)
    dead = maximize_activations(lambda _, x: 0 * x.mean((1, 2)), {}, [0], (3, 2, 1), jax.random.key(0), ascent)
    still = maximize_activations(
        lambda _, x: 0 * x.mean((1, 2)), {}, [0], (3, 2, 1), jax.random.key(0), Ascent(steps=0, jitter_px=0)
    )
    x, y = still.images[0, :, :, 0].astype(np.float64), dead.images[0, :, :, 0]
    assert y[0, 0] == pytest.approx(x[0, 0] + (x[1, 0] - x[0, 0]) + (x[0, 1] - x[0, 0]), rel=1e-5)
    assert y[1, 1] == pytest.approx(x[0, 1] + x[2, 1] + x[1, 0] - 2 * x[1, 1], rel=1e-5)
    assert dead.activations.tolist() == [0]


def test_penalties_and_seeds_and_batches():
    def run(key=0, batch_size=16, **settings):
        ascent = Ascent(steps=40, **settings)
        return maximize_activations(
            features, VARIABLES, [1, 3, 0], (8, 6, 3), jax.random.key(key), ascent, batch_size=batch_size
        ).images

    plain = run(l2=0, total_variation=0)
    assert np.square(run(l2=5, total_variation=0)).mean() < np.square(plain).mean()
    smooth = run(l2=0, total_variation=2)
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.5 * np.abs(np.diff(plain, axis=1)).mean()
    np.testing.assert_allclose(run(batch_size=2), run(), rtol=1e-3, atol=1e-3)
    alone = maximize_activations(features, VARIABLES, [3], (8, 6, 3), jax.random.key(0), Ascent(steps=40))
    np.testing.assert_allclose(alone.images[0], run()[1], rtol=1e-3, atol=1e-3)
    assert (run() == run()).all() and (run() != run(key=1)).any()


def test_units_to_maximize_that_do_not_exist():
    for channels, size in (([4], 1), ([-1], 1), ([0], 0), ([], 1)):
        with pytest.raises(ValueError, match="units from 0 to 3"):
            maximize_activations(features, VARIABLES, channels, (8, 6, 3), jax.random.key(0), batch_size=size)
