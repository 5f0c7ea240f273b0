"""Ablation of single units: the accuracy of a network whose unit is set to 0."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis.unit_statistics import MAX_BYTES, checked_labels

Scores = Callable[[Any, jax.Array], jax.Array]  # (variables, activations) -> [n, classes]


class Ablation(NamedTuple):
    """Accuracies without one unit.

    Attributes:
      accuracy: the accuracy of the whole network.
      accuracies: [u], the accuracy after each unit is set to 0.
    """

    accuracy: float
    accuracies: np.ndarray

    @property
    def drops(self) -> np.ndarray:
        """Returns [u], the loss of accuracy by the ablation of each unit; negative if the accuracy grows."""
        return self.accuracy - self.accuracies


def ablation(
    scores: Scores,
    variables: Any,
    batches: Iterable[tuple[Any, Any]],
    channels: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Ablation:
    """Returns the accuracy after each unit of an activation is set to 0 at all positions.

    The network is entered at the activation: `scores` is the part of the network above it, for any network. For a
    network of jaxft, the two parts are

        activations = model.apply(variables, images, stop=block)
        scores = lambda variables, activations: model.apply(variables, activations, after=block)

    Args:
      scores: returns the scores [n, classes] from the variables and activations.
      variables: the variables of the network: a tree of arrays.
      batches: (activations, labels) of each batch, [n, ..., c] and [n]; images with a negative label are left out.
      channels: [u], the units that are set to 0, one at a time. If None, all.
      max_bytes: the largest memory for the masked activations of a batch; it decides how many units run together.

    Raises:
      ValueError: there are no images with a label, the shapes are wrong, or a unit does not exist.

    Reference: Morcos et al. 2018, "On the importance of single directions for generalization", with 0 as the
    value of an ablated unit; Zhou et al. 2018, "Revisiting the importance of individual units in CNNs via
    ablation".
    """
    num_images, totals = 0, None
    num_correct = jax.jit(functools.partial(_num_correct, scores), static_argnames="step")
    for activations, labels in batches:
        x = jnp.asarray(activations)
        labels = checked_labels(labels, len(x), np.iinfo(np.int64).max)
        step = max(max_bytes // max(x.nbytes, 1), 1)
        is_ablated = jnp.asarray(_masks(channels, x.shape[-1]))
        counts = num_correct(variables, x, jnp.asarray(labels, jnp.int32), is_ablated, step=step)
        totals = np.asarray(counts, np.int64) + (0 if totals is None else totals)
        num_images += int((labels >= 0).sum())
    if totals is None or not num_images:
        raise ValueError("there are no images with a label, so there is no accuracy.")
    return Ablation(float(totals[0] / num_images), totals[1:] / num_images)


def _masks(channels: Sequence[int] | None, num_channels: int) -> np.ndarray:
    """Returns [1 + u, c] bool, whether each unit is set to 0; in the first row, no unit."""
    indices = np.arange(num_channels) if channels is None else np.asarray(channels, np.int64)
    if indices.ndim != 1 or ((indices < 0) | (indices >= num_channels)).any():
        raise ValueError(f"`channels` must be a list of units from 0 to {num_channels - 1}.")
    return np.concatenate([np.zeros((1, num_channels), bool), np.eye(num_channels, dtype=bool)[indices]])


def _num_correct(
    scores: Scores, variables: Any, activations: jax.Array, labels: jax.Array, is_ablated: jax.Array, step: int
) -> jax.Array:
    """Returns [1 + u], the number of correct predictions with each mask. No score is nan in a correct prediction."""

    def of_mask(mask: jax.Array) -> jax.Array:
        shape = (1,) * (activations.ndim - 1) + (-1,)
        y = scores(variables, jnp.where(mask.reshape(shape), jnp.zeros((), activations.dtype), activations))
        return ((y.argmax(-1) == labels) & ~jnp.isnan(y).any(-1)).sum()  # a negative label is never predicted

    return jax.lax.map(of_mask, is_ablated, batch_size=step)
