"""Linear CKA between all taps of two networks, from a stream of batches, with bounded memory."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.ops.precision import at_least_float32, true_products

MIN_BATCH = 4  # images; the unbiased estimator divides by n - 3


class TapSimilarity(NamedTuple):
    """Sums of HSIC_1 over batches, in float64. `plus` adds further batches.

    Attributes:
      cross: [taps of x, taps of y], the sum of HSIC_1(x, y).
      self_x: [taps of x], the sum of HSIC_1(x, x).
      self_y: [taps of y], the sum of HSIC_1(y, y).
    """

    cross: np.ndarray
    self_x: np.ndarray
    self_y: np.ndarray

    def plus(self, other: "TapSimilarity") -> "TapSimilarity":
        """Returns the sums over the batches of both."""
        return TapSimilarity(*(a + b for a, b in zip(self, other)))

    @property
    def cka(self) -> np.ndarray:
        """Returns the linear CKA, [taps of x, taps of y]; nan for a tap that is constant over the images.

        The estimator is not restricted to [0, 1]: for unrelated activations, it is around 0.
        """
        scale = np.sqrt(np.maximum(self.self_x[:, None] * self.self_y[None], 0))
        return np.divide(self.cross, scale, out=np.full_like(self.cross, np.nan), where=scale > 0)


def tap_similarity(x: Mapping[str, Any], y: Mapping[str, Any]) -> TapSimilarity:
    """Returns the sums of one batch, for all pairs of a tap of x and a tap of y.

    The sums over a stream are `functools.reduce(TapSimilarity.plus, (tap_similarity(...) for each batch))`. A batch
    takes one matrix product of the Gram matrices of all taps.

    Args:
      x: {tap: activations [n, ...]} of the first network; all axes but the first are flattened.
      y: {tap: activations [n, ...]} of the second network, for the same images.

    Raises:
      ValueError: the numbers of images differ or are below 4, or activations are not finite.

    Reference: Nguyen, Raghu & Kornblith 2021, "Do wide and deep networks learn the same things?", equations 3 and 4:
    numerator and denominators are averaged over batches separately, with the unbiased estimator HSIC_1 of Song et al.
    2012. Kornblith et al. 2019, "Similarity of neural network representations revisited", for linear CKA.
    """
    counts = {np.shape(activations)[:1] for side in (x, y) for activations in side.values()}
    if len(counts) != 1 or next(iter(counts), (0,)) < (MIN_BATCH,):
        raise ValueError(
            f"the activations have {sorted(counts)} images; x and y need the same number, at least {MIN_BATCH}."
        )
    cross, of_x, of_y = (np.asarray(part, np.float64) for part in _products(list(x.values()), list(y.values())))
    for side, values in ((x, of_x), (y, of_y)):
        if wrong := [tap for tap, value in zip(side, values) if not np.isfinite(value)]:
            raise ValueError(f"the activations of {wrong[0]!r} are not finite.")
    return TapSimilarity(cross, of_x, of_y)


@jax.jit
@true_products
def _products(x: list[jax.Array], y: list[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns HSIC_1 of all pairs, and of each tap with itself."""
    grams_x, grams_y = (jnp.stack([_centered_gram(activations) for activations in side]) for side in (x, y))
    n = len(x[0])
    scale = 1 / (n * (n - 3))
    return (
        scale * grams_x @ grams_y.T,
        scale * (grams_x * grams_x).sum(-1),
        scale * (grams_y * grams_y).sum(-1),
    )


def _centered_gram(activations: jax.Array) -> jax.Array:
    """Returns the U-centered Gram matrix [n * n] of activations [n, ...].

    The inner product of two such matrices, divided by n (n - 3), is HSIC_1 (Székely & Rizzo 2014, section 2). Centered
    activations have the same U-centered Gram matrix, and lose fewer digits.
    """
    x = at_least_float32(activations.reshape(len(activations), -1))
    x = x - x.mean(0, keepdims=True)
    n = len(x)
    is_off_diagonal = 1 - jnp.eye(n, dtype=x.dtype)
    gram = (x @ x.T) * is_off_diagonal
    sums = gram.sum(0)
    centered = gram - (sums[:, None] + sums[None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return (centered * is_off_diagonal).ravel()


def stream_similarity(batches: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> TapSimilarity:
    """Returns the sums over batches (x, y) as in `tap_similarity`; batches of fewer than 4 images are left out.

    Raises:
      ValueError: there is no batch of at least 4 images.
    """
    total = None
    for x, y in batches:
        if len(next(iter(x.values()))) >= MIN_BATCH:
            of_batch = tap_similarity(x, y)
            total = of_batch if total is None else total.plus(of_batch)
    if total is None:
        raise ValueError(f"there is no batch of at least {MIN_BATCH} images.")
    return total
