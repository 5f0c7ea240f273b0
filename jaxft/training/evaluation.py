"""Evaluation of a network, and moments of the inputs of its batch-norm layers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.paths import flatten, unflatten
from jaxft.data.augmentation.evaluation import NUM_CROPS, center_crop, ten_crops
from jaxft.training.forward import apply_network, enter_network
from jaxft.training.phase import EvalSpec
from jaxft.training.state import Flat, Frozen


def is_finite(params: Flat, batch_stats: Flat) -> jax.Array:
    """Returns a boolean scalar: whether all parameters and statistics of a network are finite.

    The loss is not sufficient: XLA on a CPU compiles a ReLU followed by a pooling such that NaN becomes finite.
    """
    leaves = jax.tree.leaves((params, batch_stats))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all() if leaves else jnp.array(True)


class Evaluation(NamedTuple):
    """The results of one batch.

    Attributes:
      loss: sum of the losses over the images, without padding; a scalar.
      correct: number of correct predictions, without padding; a scalar.
      predictions: [batch] int32, the predicted classes.
    """

    loss: jax.Array
    correct: jax.Array
    predictions: jax.Array


@functools.cache
def make_eval_step(spec: EvalSpec) -> Callable[..., Evaluation]:
    """Returns `eval_step(params, batch_stats, labels, rows, mask, frozen, images) -> Evaluation`.

    labels: [images] int32; rows: [1, batch] int32; mask: [1, batch] bool, false for padding; images: [images, h, w, 3]
    uint8, or outputs of the frozen prefix. Batch norm uses its running statistics. With ten crops, loss and prediction
    use the mean of the class probabilities over the crops (Krizhevsky et al. 2012, section 4.1).
    """
    size_px = spec.preprocessing.size_px

    def class_logits(params: Flat, batch_stats: Flat, frozen: Frozen, images: jax.Array) -> jax.Array:
        if spec.crops == "ten":
            crops = ten_crops(images, size_px).reshape(-1, size_px, size_px, images.shape[-1])
            logits, _ = apply_network(spec, params, batch_stats, frozen, crops, train=False)
            log_probabilities = jax.nn.log_softmax(logits).reshape(len(images), NUM_CROPS, -1)
            return jax.nn.logsumexp(log_probabilities, axis=1) - jnp.log(NUM_CROPS)
        inputs = images if spec.from_features else center_crop(images, size_px)
        return apply_network(spec, params, batch_stats, frozen, inputs, train=False)[0]

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
        logits = class_logits(params, batch_stats, frozen, images[rows])
        losses = spec.targets.evaluation_losses(logits, labels[rows])
        predictions = spec.targets.predictions(logits)
        correct = spec.targets.is_correct(predictions, labels[rows]) & mask
        return Evaluation(jnp.where(mask, losses, 0.0).sum(), correct.sum(), predictions)

    return eval_step


@functools.cache
def make_moments_step(spec: EvalSpec) -> Callable[..., Flat]:
    """Returns `moments_step(params, batch_stats, rows, frozen, images)`: input moments of batch norms above the prefix.

    rows: [1, batch] int32; images: as in `make_eval_step`. LoRA factors must already be merged into `params`. For each
    batch norm, such as 'stem/bn', the step returns `{'stem/bn/mean': [features], 'stem/bn/var': [features],
    'stem/bn/values_per_image': scalar}`. The variance is biased. Batch norms normalize with the batch.
    """

    def moments_step(params: Flat, batch_stats: Flat, rows: jax.Array, frozen: Frozen, images: jax.Array) -> Flat:
        batch = images[rows[0]]
        inputs = batch if spec.from_features else center_crop(batch, spec.preprocessing.size_px)
        x, stats = enter_network(spec, batch_stats, frozen, inputs)
        variables = {"params": unflatten(frozen.params | params), "batch_stats": unflatten(stats)}
        _, updated = spec.model.apply(variables, x, train=True, after=spec.prefix, mutable=["batch_stats", "moments"])
        return {name: jnp.asarray(value) for name, value in flatten(updated["moments"]).items()}

    return moments_step


def pool_moments(moments: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns {name: running statistics [..., features]} over the images of all batches.

    `moments` are the results of `make_moments_step` for batches of `sizes` images. The variance follows from the law
    of total variance. It is unbiased (n - 1), like the running variance.
    """
    weights = np.array(sizes, np.float64) / sum(sizes)

    def mean(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.tensordot(weights, np.stack(values), axes=1)

    pooled = {}
    for name in (name for name in moments[0] if name.endswith("/mean")):
        layer = name.removesuffix("mean")
        means = [batch[name].astype(np.float64) for batch in moments]
        total = mean(means)
        var = mean([batch[layer + "var"] + np.square(batch_mean - total) for batch, batch_mean in zip(moments, means)])
        count = float(np.ravel(moments[0][layer + "values_per_image"])[0]) * sum(sizes)
        pooled[name] = total.astype(np.float32)
        pooled[layer + "var"] = (var * count / max(count - 1, 1)).astype(np.float32)
    return pooled
