"""Evaluation of a network, and what its batch norms see of images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import flatten, unflatten
from jaxft.data.augmentation.evaluation import NUM_CROPS, center_crop, ten_crops
from jaxft.training.forward import apply_network, enter_network
from jaxft.training.phase import Evaluated
from jaxft.training.state import Flat, Frozen


def is_finite(params: Flat, batch_stats: Flat) -> jax.Array:
    """Returns a boolean scalar: whether every parameter and every statistic of a network is a finite number.

    The loss does not tell: XLA on a CPU compiles a ReLU followed by a pool so that NaN becomes a finite number.
    """
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((params, batch_stats))]).all()


class Evaluation(NamedTuple):
    """Sums over the images of a batch that are no padding, and each image's predicted class."""

    loss: jax.Array
    correct: jax.Array
    predictions: jax.Array


@functools.cache
def make_eval_step(network: Evaluated) -> Callable[..., Evaluation]:
    """Returns `eval_step(params, batch_stats, labels, rows, mask, frozen, images) -> Evaluation`.

    rows: [1, batch] int32, mask: [1, batch] bool, false for padding. Statistics are the running ones. Of ten crops the
    mean of the probabilities counts (Krizhevsky et al. 2012, section 4.1).
    """
    size_px = network.preprocessing.size_px

    def log_shares(params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array) -> jax.Array:
        if network.crops == "ten":
            crops = ten_crops(images, size_px).reshape(-1, size_px, size_px, images.shape[-1])
            logits, _ = apply_network(network, params, batch_stats, frozen, crops, train=False)
            of_crops = jax.nn.log_softmax(logits).reshape(len(images), NUM_CROPS, -1)
            return jax.nn.logsumexp(of_crops, axis=1) - jnp.log(NUM_CROPS)
        seen = images if network.from_features else center_crop(images, size_px)
        return apply_network(network, params, batch_stats, frozen, seen, train=False)[0]

    def eval_step(
        params: Flat,
        batch_stats: Flat,
        labels: jax.Array,
        rows: jax.Array,
        mask: jax.Array,
        frozen: Frozen,
        images: jax.Array,
    ) -> Evaluation:
        rows, mask = rows[0], mask[0]
        logits = log_shares(params, batch_stats, frozen, images[rows])
        losses = network.targets.evaluation_losses(logits, labels[rows])
        predictions = network.targets.predictions(logits)
        correct = network.targets.is_correct(predictions, labels[rows]) & mask
        return Evaluation(jnp.where(mask, losses, 0.0).sum(), correct.sum(), predictions)

    return eval_step


@functools.cache
def make_moments_step(network: Evaluated) -> Callable[..., Flat]:
    """Returns `moments_step(params, batch_stats, rows, frozen, images)`, what enters each batch norm above the prefix.

    rows: [1, batch] int32. `{'stem/bn/mean': [features], 'stem/bn/var': biased, 'stem/bn/values_per_image': of an
    image}`; what lies below is normalized by the batch's own statistics.
    """

    def moments_step(params: Flat, batch_stats: Flat, rows: jax.Array, frozen: Frozen, images: jax.Array) -> Flat:
        batch = images[rows[0]]
        seen = batch if network.from_features else center_crop(batch, network.preprocessing.size_px)
        x, start, stats = enter_network(network, batch_stats, frozen, seen)
        variables = {"params": unflatten(frozen.params | params), "batch_stats": unflatten(stats)}
        _, updated = network.model.apply(variables, x, train=True, start=start, mutable=["batch_stats", "moments"])
        return {name: jnp.asarray(value) for name, value in flatten(updated["moments"]).items()}

    return moments_step


def pool_moments(moments: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns running statistics [..., features] from the moments of batches of so many images, of all of them.

    The mean, and the variance by the law of total variance, unbiased (n - 1) as running ones are.
    """
    shares = np.array(sizes, np.float64) / sum(sizes)

    def mean(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.tensordot(shares, np.stack(values), axes=1)

    pooled = {}
    for name in (name for name in moments[0] if name.endswith("/mean")):
        layer = name.removesuffix("mean")
        means = [of[name].astype(np.float64) for of in moments]
        total = mean(means)
        var = mean([of[layer + "var"] + np.square(batch_mean - total) for of, batch_mean in zip(moments, means)])
        count = float(np.ravel(moments[0][layer + "values_per_image"])[0]) * sum(sizes)
        pooled[name] = total.astype(np.float32)
        pooled[layer + "var"] = (var * count / max(count - 1, 1)).astype(np.float32)
    return pooled
