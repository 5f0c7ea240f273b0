"""Activations of a network at its taps, for the functions of `jaxft.analysis`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxft.models.network import Network

if TYPE_CHECKING:
    import jax

LOGITS = "logits"


def make_apply(model: Network, with_logits: bool = False) -> "Callable[[Any, jax.Array], dict[str, jax.Array]]":
    """Returns `apply(variables, images) -> {tap: activations [n, ...]}`, in the order of the network, compiled.

    Batch norms use their running statistics. The taps are those of `model.taps`; one forward pass computes them all.

    Args:
      model: the network.
      with_logits: whether 'logits', the output of the head [n, classes], is the last activation.
    """
    import jax

    blocks = {tap.name: tap.block for tap in model.taps}
    if with_logits:
        blocks[LOGITS] = model.head

    @jax.jit
    def outputs(variables: Mapping[str, Any], images: "jax.Array") -> "list[jax.Array]":
        activations, after = [images], None
        for block in blocks.values():
            activations.append(model.apply(variables, activations[-1], after=after, stop=block))
            after = block
        return activations[1:]

    def apply(variables: Mapping[str, Any], images: "jax.Array") -> "dict[str, jax.Array]":
        return dict(zip(blocks, outputs(variables, images), strict=True))  # JAX would sort the names of a dict

    return apply
