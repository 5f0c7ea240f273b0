"""Averages of weights: soups of networks fine-tuned from one start, and the line back to that start (WiSE-FT).

Parameters and statistics are flat dicts by name.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.augment import centre_crop
from jaxft.data.stream import Pixels, at_hand
from jaxft.train import Flat, Frozen, Phase, apply_network, split_variables

MOST_IN_BATCH = 256  # images whose statistics are taken together


def average(weights: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the mean of several networks' leaves: a uniform soup (Wortsman et al. 2022, "Model soups", section 2)."""
    return {
        name: np.mean([np.asarray(each[name], np.float64) for each in weights], axis=0).astype(np.float32)
        for name in weights[0]
    }


def interpolate(start: Mapping[str, Any], final: Mapping[str, Any], alpha: float) -> dict[str, np.ndarray]:
    """Returns (1 - alpha) start + alpha final, leaf by leaf.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 4 (WiSE-FT), where all of the network,
    its classifier too, has a start that is of use.
    """
    a, b = 1 - alpha, alpha
    return {
        name: (a * np.asarray(start[name], np.float64) + b * np.asarray(final[name], np.float64)).astype(np.float32)
        for name in final
    }


def greedy_soup(scores: Sequence[float], score_of: Callable[[tuple[int, ...]], float]) -> tuple[tuple[int, ...], float]:
    """Returns which networks the greedy soup has, as they were added, and its score (Wortsman et al. 2022, recipe 1).

    From the best on, each is added, in the order of `scores`, where the soup's score does not fall by it.

    Args:
      scores: those of the networks alone, on validation.
      score_of: returns the score of the average of some of them, by number.
    """
    first, *others = sorted(range(len(scores)), key=lambda i: -scores[i])
    chosen: tuple[int, ...] = (first,)
    best = scores[first]
    for i in others:
        score = score_of((*chosen, i))
        if score >= best:
            chosen, best = (*chosen, i), score
    return chosen, best


def recalibrate(
    phase: Phase, params: Mapping[str, Any], batch_stats: Mapping[str, Any], images: Pixels, rows: np.ndarray
) -> dict[str, Any]:
    """Returns the statistics with those that the phase tracks taken anew, as an average's are no average.

    They are means over batches of the batch's mean and unbiased variance, in training mode, as in PyTorch's
    `update_bn` (Izmailov et al. 2018, section 3.2), over the images as they are evaluated, without random changes.
    The batches have one size, at most `MOST_IN_BATCH`, in an order that is always the same; up to one image a batch is
    left over. Statistics that rested in training rest.

    Args:
      params, batch_stats: whole and flat; images: [n, h, w, 3] uint8, of which `rows` are the training images.
    """
    if not phase.tracked:
        return dict(batch_stats)
    live, tracked, frozen = split_variables(phase, params, batch_stats)
    count = -(-len(rows) // MOST_IN_BATCH)
    order = np.random.Generator(np.random.PCG64(0)).permutation(rows)
    run = _make_batch_statistics(phase)
    total = {name: np.zeros(np.shape(leaf)) for name, leaf in tracked.items()}
    for batch in order[: len(rows) // count * count].reshape(count, -1):
        found = run(live, tracked, frozen, at_hand(images, batch)[batch])
        total = {name: total[name] + np.asarray(leaf, np.float64) for name, leaf in found.items()}
    return dict(batch_stats) | {name: (leaf / count).astype(np.float32) for name, leaf in total.items()}


@functools.cache
def _make_batch_statistics(phase: Phase) -> Callable[[Flat, Flat, Frozen, jax.Array], Flat]:
    """Returns the function that gives the statistics of a batch, whatever the share by which running ones move."""

    @jax.jit
    def run(live: Flat, tracked: Flat, frozen: Frozen, images: jax.Array) -> Flat:
        seen = centre_crop(images, phase.preprocessing.size_px)
        zeros, ones = (jax.tree.map(make, tracked) for make in (jnp.zeros_like, jnp.ones_like))
        from_zeros, from_ones = (
            apply_network(phase, live, begin, frozen, seen, train=True)[1] for begin in (zeros, ones)
        )
        # A running statistic becomes m * itself + (1 - m) * the batch's, with one m for all of a leaf.
        return jax.tree.map(lambda at_0, at_1: at_0 / (1 - jnp.median(at_1 - at_0)), from_zeros, from_ones)

    return run
