"""The attention of DELTA: the importance of each channel of the source for the target."""

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

ATTENTION_IMAGES = 256  # maximum number of images for the measurement

ATTENTION_BATCH = 64  # images per forward pass

PROBE_DECAY = 0.01  # L2 penalty of the linear probe


def channel_attention(blocks: Sequence[str], images: TrainingImages) -> dict[str, np.ndarray]:
    """Returns {block: W [channels] float32}, the importance of each channel of the source for the target; sums are 1.

    W_j is the softmax over the channels of a block of the increase in loss when channel j is set to zero. The loss is
    that of a linear probe on the features of the source (Li et al. 2019, section 3.3). The probe is a logistic
    regression on all training images. The loss is the mean over at most 256 evenly spaced training images without
    augmentation. (In the paper, W_j belongs to one image. The code of the authors also uses the mean, and divides by 5
    before the softmax.) The cost is one forward pass from the block upward for each of its channels.

    Args:
      blocks: the blocks.
      images: the training images of the target, with the source network.
    """
    model, rows, labels = images.model, images.rows, images.labels
    features = np.asarray(pooled(jnp.asarray(images.outputs(model.feature_block))))
    probe = linear.fit("logistic", features, labels, int(labels.max()) + 1, [PROBE_DECAY])
    kernel, bias = jnp.asarray(probe.kernel[0]), jnp.asarray(probe.bias[0])
    size = min(ATTENTION_BATCH, len(rows))
    count = min(len(rows), ATTENTION_IMAGES) // size * size
    selected = np.linspace(0, len(rows) - 1, count).round().astype(int)
    nested = {collection: unflatten(leaves) for collection, leaves in images.variables.items()}
    attention = {}
    for block in blocks:
        loss = functools.partial(make_masked_loss(model, block), nested, kernel, bias)
        x = images.outputs(block, selected)
        batches = [
            (jnp.asarray(x[i : i + size]), jnp.asarray(labels[selected[i : i + size]])) for i in range(0, count, size)
        ]
        masks = 1 - np.eye(x.shape[-1] + 1, x.shape[-1], dtype=np.float32)  # the last mask keeps all channels
        losses = np.array([np.mean([float(loss(*batch, jnp.asarray(mask))) for batch in batches]) for mask in masks])
        increase = losses[:-1] - losses[-1]
        weights = np.exp(increase - increase.max())
        attention[block] = (weights / weights.sum()).astype(np.float32)
    return attention


@functools.cache
def make_masked_loss(model: Network, block: str) -> Callable[..., jax.Array]:
    """Returns `masked_loss(variables, kernel, bias, x, labels, mask)`, the mean loss of a linear probe on features.

    kernel: [features, classes]; bias: [classes]; x: [n, height, width, channels], outputs of `block`; labels: [n];
    mask: [channels], 0 for channels that are set to zero, otherwise 1.
    """

    @jax.jit
    @true_products
    def masked_loss(
        variables: Any, kernel: jax.Array, bias: jax.Array, x: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> jax.Array:
        x = x * mask.reshape((1,) * (x.ndim - 1) + (-1,))
        x = model.apply(variables, x, after=block, stop=model.feature_block)
        log_probabilities = jax.nn.log_softmax(pooled(x) @ kernel + bias.reshape(1, -1))
        return -jnp.take_along_axis(log_probabilities, labels.reshape(-1, 1), axis=1).mean()

    return masked_loss
