"""Classifiers of features: linear ones, with many penalties in one program, k nearest neighbors, and class means.

All functions take arrays: `features: [n, d]` and `labels: [n]`, integers from 0 to classes - 1.
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
QUERIES = 1024  # queries in a chunk
COLUMNS = 4096  # columns in a chunk in double precision
LEAST_SHARE = 1e-12  # smaller eigenvalues, as a fraction of the largest one, are rounding errors


class Fitted(NamedTuple):
    """Linear classifiers, one for each penalty.

    Attributes:
      kernel: [penalties, d, classes] float32.
      bias: [penalties, classes] float32.
      num_iterations: [penalties], the number of iterations of L-BFGS.
      remaining: [penalties], the largest absolute entry of the gradient, divided by its value at zero weights.
    """

    kernel: np.ndarray
    bias: np.ndarray
    num_iterations: np.ndarray
    remaining: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns [penalties, n, classes], the scores of each classifier for `features: [n, d]`."""
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
    """Returns a linear classifier for each penalty, which minimizes mean(w_i loss_i) + penalty / 2 ||kernel||^2.

    The bias has no penalty. With the C of scikit-learn, which weights the sum of losses, the penalty is 1 / (C n);
    LinearSVC of scikit-learn regularizes the bias too.

    L-BFGS with a line search (Nocedal & Wright 2006, algorithm 7.4) starts from zero weights and runs for all penalties
    together under `vmap`. If there are more features than images, it uses coordinates in the span of the images, which
    contains the minimum.

    Args:
      loss: 'logistic' for multinomial logistic regression, or 'svm' for the sum over classes of the one-vs-rest squared
        hinge losses max(0, 1 - y s)^2 (Fan et al. 2008, "LIBLINEAR").
      features: [n, d].
      labels: [n].
      num_classes: number of classes.
      penalties: L2 penalties, above 0.
      weights: [n], the weights w_i of the images in the loss; if None, 1.
      max_iterations: maximum number of iterations.
      tolerance: iterations end when no absolute entry of the gradient is above `tolerance` times the largest one at
        zero weights.
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
    """Returns [n], the loss of each image, from `scores: [n, classes]` and `labels: [n]`."""
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

        def continues(carry: Any) -> jax.Array:
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
        start = zero, solver.init(zero), at_zero, jnp.int32(0)
        params, _, remaining, count = jax.lax.while_loop(continues, step, start)
        return params["kernel"], params["bias"], count, remaining / at_zero

    return jax.vmap(fit_one)(penalties)


def span(features: np.ndarray) -> np.ndarray:
    """Returns [d, n], orthonormal axes of the span of the rows of `features: [n, d]`; axes beyond the rank are 0.

    The best linear classifier with an L2 penalty is in the span of its training features (Kimeldorf & Wahba 1971), and
    its norm is the same in these coordinates. So features of any dimension d above n have the shape [n, n] there, and
    share one compiled program.
    """

    def slices() -> Iterator[np.ndarray]:
        for start in range(0, features.shape[1], COLUMNS):
            yield features[:, start : start + COLUMNS].astype(np.float64)

    values, vectors = np.linalg.eigh(sum(columns @ columns.T for columns in slices()))
    is_nonzero = values > LEAST_SHARE * values[-1]
    scaled = vectors * np.where(is_nonzero, 1 / np.sqrt(np.where(is_nonzero, values, 1)), 0)
    return np.concatenate([(columns.T @ scaled).astype(np.float32) for columns in slices()])


def make_scaling(scaling: Scaling, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (shift, scale) for `rescale`, both [1, d], from the training `features: [n, d]`.

    With 'standard', each rescaled feature has mean 0 and standard deviation 1 over the images; a constant feature is 0.
    """
    if scaling != "standard":
        return np.zeros((1, features.shape[1]), np.float32), np.ones((1, features.shape[1]), np.float32)
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(mean)
    scale = np.where(varies, 1 / np.where(varies, std, 1), 0)
    return mean.astype(np.float32)[None], scale.astype(np.float32)[None]


def rescale(scaling: Scaling, features: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the rescaled features, [n, d].

    Args:
      scaling: 'none', 'l2' for rows of norm 1 (Razavian et al. 2014, section 2.1), or 'standard'.
      features: [n, d].
      shift: [1, d], from `make_scaling`.
      scale: [1, d], from `make_scaling`.
    """
    return unit_length(features) if scaling == "l2" else (features - shift) * scale


def unit_length(x: np.ndarray) -> np.ndarray:
    """Returns the rows of `x: [n, d]`, scaled to norm 1. Rows of zeros are unchanged."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


# --- classifiers without training -------------------------------------------------------------------------------


def predict_by_neighbors(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    queries: np.ndarray,
    num_neighbors: Sequence[int],
    metric: Metric = "cosine",
) -> np.ndarray:
    """Returns [values of k, queries] int32: the most frequent class among the k nearest images, for each k.

    Ties are broken in favor of the class with the nearest image.

    Args:
      features: [n, d].
      labels: [n].
      num_classes: number of classes.
      queries: [queries, d].
      num_neighbors: the values of k.
      metric: 'cosine' or 'euclidean'.

    Raises:
      ValueError: a k is above n.

    Reference: Cover & Hart 1967, "Nearest neighbor pattern classification".
    """
    most = max(num_neighbors)
    if most > len(features):
        raise ValueError(f"the number of neighbors is {most}, but there are only {len(features)} images.")
    predictions = []
    for start in range(0, len(queries), QUERIES):
        nearest = _nearest(metric, most, jnp.asarray(features), jnp.asarray(queries[start : start + QUERIES]))
        nearest_labels = np.asarray(labels)[np.asarray(nearest)]  # [queries, most], nearest first
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
    """Returns [queries, n]: the cosine times the norm of the query, or its squared norm minus the squared distance."""
    products = jnp.matmul(queries, features.T, precision="highest")
    squares = jnp.square(features).sum(1).reshape(1, -1)
    if metric == "cosine":
        return products / jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return 2 * products - squares


def predict_by_means(
    features: np.ndarray, labels: np.ndarray, num_classes: int, queries: np.ndarray, metric: Metric = "cosine"
) -> np.ndarray:
    """Returns [queries] int32, the class with the nearest mean feature. A class without images is never returned.

    Args:
      features: [n, d].
      labels: [n].
      num_classes: number of classes.
      queries: [queries, d].
      metric: 'cosine' or 'euclidean'.

    Reference: Mensink et al. 2013, "Distance-based image classification: generalizing to new classes at near-zero
    cost".
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, features)
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    nearness = np.asarray(_nearness(metric, jnp.asarray(means), jnp.asarray(queries, jnp.float32)))
    return np.where(counts[None] > 0, nearness, -np.inf).argmax(1).astype(np.int32)
