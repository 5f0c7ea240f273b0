"""Activations of a network at its taps, for the functions of `jaxft.analysis`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxft.models.network import Network

if TYPE_CHECKING:
    import jax

LOGITS = "logits"


def make_apply(model: Network, with_logits: bool = False) -> "Callable[[Any, jax.Array], dict[str, jax.Array]]":
    """Returns `apply(variables, images) -> {tap: activations [n, ...]}`, in the order of the network.

    Batch norms use their running statistics. The taps are those of `model.taps`; one forward pass computes them all.

    Args:
      model: the network.
      with_logits: whether 'logits', the output of the head [n, classes], is the last activation.
    """
    blocks = {tap.name: tap.block for tap in model.taps}
    if with_logits:
        blocks[LOGITS] = model.head

    def apply(variables: Mapping[str, Any], images: "jax.Array") -> "dict[str, jax.Array]":
        outputs, x, after = {}, images, None
        for name, block in blocks.items():
            outputs[name] = x = model.apply(variables, x, after=after, stop=block)
            after = block
        return outputs

    return apply
