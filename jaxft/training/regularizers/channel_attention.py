"""The attention of DELTA: how much each channel of the source matters to the target."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis import linear
from jaxft.core.paths import unflatten
from jaxft.models import Network
from jaxft.ops.precision import true_products
from jaxft.training.pooled import pooled
from jaxft.training.training_images import TrainingImages

ATTENTION_IMAGES = 256  # most that a channel's attention is measured on

ATTENTION_BATCH = 64

PROBE_DECAY = 0.01  # of the linear probe that attention is measured with


def channel_attention(blocks: Sequence[str], images: TrainingImages) -> dict[str, np.ndarray]:
    """Returns {block: [channels] float32}, how much each channel of the source matters to the target, summing to 1.

    W_j is the softmax over a block's channels of how much the loss rises when channel j is set to zero, under a linear
    probe on the source's features (Li et al. 2019, section 3.3). The probe is a logistic regression on all training
    images; the loss is the mean over at most 256 of them, evenly spaced, as they are without random changes (in the
    paper W_j is an image's own; the authors' code has the mean too, and divides by 5 before the softmax). It takes a
    forward pass from the block on for each of its channels.

    Args:
      images: the training images of the target, with the source's network.
    """
    model, rows, labels = images.model, images.rows, images.labels
    features = np.asarray(pooled(jnp.asarray(images.outputs(model.feature_block))))
    probe = linear.fit("logistic", features, labels, int(labels.max()) + 1, [PROBE_DECAY])
    kernel, bias = jnp.asarray(probe.kernel[0]), jnp.asarray(probe.bias[0])
    size = min(ATTENTION_BATCH, len(rows))
    count = min(len(rows), ATTENTION_IMAGES) // size * size
    chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
    nested = {collection: unflatten(leaves) for collection, leaves in images.variables.items()}
    attention = {}
    for block in blocks:
        loss = functools.partial(make_masked_loss(model, block), nested, kernel, bias)
        x = images.outputs(block, chosen)
        batches = [
            (jnp.asarray(x[i : i + size]), jnp.asarray(labels[chosen[i : i + size]])) for i in range(0, count, size)
        ]
        masks = 1 - np.eye(x.shape[-1] + 1, x.shape[-1], dtype=np.float32)  # the last of which drops none
        losses = np.array([np.mean([float(loss(*batch, jnp.asarray(mask))) for batch in batches]) for mask in masks])
        rise = losses[:-1] - losses[-1]
        shares = np.exp(rise - rise.max())
        attention[block] = (shares / shares.sum()).astype(np.float32)
    return attention


@functools.cache
def make_masked_loss(model: Network, block: str) -> Callable[..., jax.Array]:
    """Returns `masked_loss(variables, kernel, bias, x, labels, kept)`, the loss under a linear probe of features.

    x: [n, height, width, channels], outputs of `block`; kept: [channels], 0 for those that are set to zero.
    """
    next_index = model.blocks.index(block) + 1

    @jax.jit
    @true_products
    def masked_loss(
        variables: Any, kernel: jax.Array, bias: jax.Array, x: jax.Array, labels: jax.Array, kept: jax.Array
    ) -> jax.Array:
        x = x * kept.reshape((1,) * (x.ndim - 1) + (-1,))
        if next_index < model.blocks.index(model.head):
            x = model.apply(variables, x, start=model.blocks[next_index], stop=model.feature_block)
        shares = jax.nn.log_softmax(pooled(x) @ kernel + bias.reshape(1, -1))
        return -jnp.take_along_axis(shares, labels.reshape(-1, 1), axis=1).mean()

    return masked_loss
