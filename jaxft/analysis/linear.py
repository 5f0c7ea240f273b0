"""Linear classifiers of features, of many strengths as one program, and two that only compare: neighbors and means.

Functions of arrays alone: `features: [n, d]`, `labels: [n]` in 0 to classes - 1.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.ops.precision import true_products

Loss = Literal["logistic", "svm"]
Metric = Literal["cosine", "euclidean"]
Scaling = Literal["none", "l2", "standard"]
MAX_ITERATIONS = 1000
TOLERANCE = 1e-5
QUERIES = 1024  # compared at a time
COLUMNS = 4096  # of a matrix that are in double precision at a time
LEAST_SHARE = 1e-12  # of the largest eigenvalue: what is below is rounding


class Fitted(NamedTuple):
    """Linear classifiers, one for each strength.

    kernel: [strengths, d, classes], bias: [strengths, classes] float32; num_iterations: [strengths]; remaining:
    [strengths], the largest entry of the gradient as a share of what it was at zero.
    """

    kernel: np.ndarray
    bias: np.ndarray
    num_iterations: np.ndarray
    remaining: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns [strengths, n, classes], what each classifier says of `features: [n, d]`."""
        return np.einsum("nd,sdc->snc", features, self.kernel, optimize=True) + self.bias[:, None]


def fit(
    loss: Loss,
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    penalties: Sequence[float],
    weights: np.ndarray | None = None,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Fitted:
    """Returns the linear classifiers of least mean(w_i loss_i) + strength / 2 ||kernel||^2, one for each strength.

    'logistic' is multinomial logistic regression; 'svm' the sum over the classes of one-against-the-rest squared hinges
    max(0, 1 - y s)^2 (Fan et al. 2008, "LIBLINEAR"). The bias is not regularized. In terms of scikit-learn's C, which
    weighs the sum of the losses, a strength is 1 / (C n); its LinearSVC regularizes the bias too.

    L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with a line search runs for all strengths side by side, from zero
    until no entry of the gradient is above `tolerance` times the largest at zero, or for `max_iterations`. With more
    features than images it is over coordinates in the images' span, in which the minimum lies.

    Args:
      features: [n, d], labels: [n]; weights: [n], those of the images in the loss; none: 1.
    """
    ones = np.ones(len(labels), np.float32)
    axes = span(features) if features.shape[1] > len(features) else None
    inputs = features if axes is None else features @ axes
    fitted = _fit_all(
        loss,
        num_classes,
        max_iterations,
        jnp.asarray(inputs, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(ones if weights is None else weights, jnp.float32),
        jnp.asarray(penalties, jnp.float32),
        jnp.float32(tolerance),
    )
    kernel, bias, num_iterations, remaining = map(np.asarray, fitted)
    if axes is not None:
        kernel = np.einsum("dr,src->sdc", axes, kernel, optimize=True)
    return Fitted(kernel, bias, num_iterations, remaining)


def losses(loss: Loss, scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns [n], the loss of each image with `scores: [n, classes]`."""
    if loss == "logistic":
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    signs = 2 * jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype) - 1
    return jnp.square(jax.nn.relu(1 - signs * scores)).sum(-1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@true_products
def _fit_all(
    loss: Loss,
    num_classes: int,
    max_iterations: int,
    features: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    penalties: jax.Array,
    tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    solver = optax.lbfgs()

    def fit_one(penalty: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        def objective(params: dict[str, jax.Array]) -> jax.Array:
            scores = jnp.matmul(features, params["kernel"], precision="highest") + params["bias"].reshape(1, -1)
            mean = jnp.mean(weights * losses(loss, scores, labels))
            return mean + penalty / 2 * jnp.vdot(params["kernel"], params["kernel"])

        def largest(grads: dict[str, jax.Array]) -> jax.Array:
            return jnp.maximum(jnp.abs(grads["kernel"]).max(), jnp.abs(grads["bias"]).max())

        def is_on(carry: Any) -> jax.Array:
            _, _, remaining, count = carry
            return (count < max_iterations) & (remaining > tolerance * at_zero)

        def step(carry: Any) -> Any:
            params, state, _, count = carry
            value, grads = optax.value_and_grad_from_state(objective)(params, state=state)
            updates, state = solver.update(grads, state, params, value=value, grad=grads, value_fn=objective)
            params = optax.apply_updates(params, updates)
            return params, state, largest(optax.tree.get(state, "grad")), count + 1

        zero = {"kernel": jnp.zeros((features.shape[1], num_classes), features.dtype)}
        zero["bias"] = jnp.zeros(num_classes, features.dtype)
        at_zero = largest(jax.grad(objective)(zero))
        begin = zero, solver.init(zero), at_zero, jnp.int32(0)
        params, _, remaining, count = jax.lax.while_loop(is_on, step, begin)
        return params["kernel"], params["bias"], count, remaining / at_zero

    return jax.vmap(fit_one)(penalties)


def span(features: np.ndarray) -> np.ndarray:
    """Returns [d, n] orthonormal axes of the span of the rows of `features: [n, d]`, zeros where its rank is below n.

    A linear classifier with a squared norm is best within the span of what it is fitted to (Kimeldorf & Wahba 1971),
    and its norm there is the same. All features of so many images then have one shape, and one compiled program.
    """

    def slices() -> Iterator[np.ndarray]:
        for begin in range(0, features.shape[1], COLUMNS):
            yield features[:, begin : begin + COLUMNS].astype(np.float64)

    values, vectors = np.linalg.eigh(sum(columns @ columns.T for columns in slices()))
    real = values > LEAST_SHARE * values[-1]
    scaled = vectors * np.where(real, 1 / np.sqrt(np.where(real, values, 1)), 0)
    return np.concatenate([(columns.T @ scaled).astype(np.float32) for columns in slices()])


def make_scaling(scaling: Scaling, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (shift, scale) [1, d], which `rescale` needs, from the `features: [n, d]` to train on.

    'standard' gives each feature the mean 0 and the standard deviation 1 over them (a feature that is constant 0).
    """
    if scaling != "standard":
        return np.zeros((1, features.shape[1]), np.float32), np.ones((1, features.shape[1]), np.float32)
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(mean)
    scale = np.where(varies, 1 / np.where(varies, std, 1), 0)
    return mean.astype(np.float32)[None], scale.astype(np.float32)[None]


def rescale(scaling: Scaling, features: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns `features: [n, d]` shifted and scaled; with 'l2' at length 1 (Razavian et al. 2014, section 2.1)."""
    return unit_length(features) if scaling == "l2" else (features - shift) * scale


def unit_length(x: np.ndarray) -> np.ndarray:
    """Returns the rows of `x: [n, d]` at length 1; those of length 0 stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


# --- without fitting --------------------------------------------------------------------------------------------


def predict_by_neighbors(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    queries: np.ndarray,
    num_neighbors: Sequence[int],
    metric: Metric = "cosine",
) -> np.ndarray:
    """Returns [neighbors, queries] int32, the class that most of the k nearest of `features: [n, d]` have, for each k.

    Of classes with as many, that of the nearest. Cover & Hart 1967.

    Raises a `ValueError` where a k is above n.
    """
    most = max(num_neighbors)
    if most > len(features):
        raise ValueError(f"{most} neighbors of {len(features)} images.")
    predictions = []
    for begin in range(0, len(queries), QUERIES):
        nearest = _nearest(metric, most, jnp.asarray(features), jnp.asarray(queries[begin : begin + QUERIES]))
        nearest_labels = np.asarray(labels)[np.asarray(nearest)]  # [queries, most], the nearest first
        one_hot = nearest_labels[:, :, None] == np.arange(num_classes).reshape(1, 1, -1)
        votes = [
            one_hot[:, :k].sum(1) + (one_hot[:, :k] * (1 - np.arange(1, k + 1).reshape(1, -1, 1) / (k + 1))).max(1)
            for k in num_neighbors
        ]
        predictions.append(np.stack(votes).argmax(-1))
    return (
        np.concatenate(predictions, axis=1).astype(np.int32)
        if predictions
        else np.zeros((len(num_neighbors), 0), np.int32)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nearest(metric: Metric, count: int, features: jax.Array, queries: jax.Array) -> jax.Array:
    return jax.lax.top_k(_nearness(metric, features, queries), count)[1]


def _nearness(metric: Metric, features: jax.Array, queries: jax.Array) -> jax.Array:
    """Returns [queries, n]: the cosine times the query's length, or its square minus the squared distance."""
    products = jnp.matmul(queries, features.T, precision="highest")
    squares = jnp.square(features).sum(1).reshape(1, -1)
    if metric == "cosine":
        return products / jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return 2 * products - squares


def predict_by_means(
    features: np.ndarray, labels: np.ndarray, num_classes: int, queries: np.ndarray, metric: Metric = "cosine"
) -> np.ndarray:
    """Returns [queries] int32, the class whose mean of `features: [n, d]` is nearest (Mensink et al. 2013).

    A class without an image is never meant.
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, features)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    nearness = np.asarray(_nearness(metric, jnp.asarray(means), jnp.asarray(queries, jnp.float32)))
    return np.where(counts[None] > 0, nearness, -np.inf).argmax(1).astype(np.int32)
