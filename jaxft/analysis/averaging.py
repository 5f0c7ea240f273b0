"""Averages of weights: soups of networks fine-tuned from one start, and the line back to that start (WiSE-FT).

Parameters and statistics are flat dicts by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def average(weights: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the mean of several networks' leaves: a uniform soup (Wortsman et al. 2022, "Model soups", section 2)."""
    return {
        name: np.mean([np.asarray(each[name], np.float64) for each in weights], axis=0).astype(np.float32)
        for name in weights[0]
    }


def interpolate(start: Mapping[str, Any], final: Mapping[str, Any], alpha: float) -> dict[str, np.ndarray]:
    """Returns (1 - alpha) start + alpha final, leaf by leaf.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), where all of the network,
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
