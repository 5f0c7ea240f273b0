"""Averages of weights: soups of networks that are fine-tuned from the same start, and interpolation to it (WiSE-FT).

Parameters and statistics are flat dicts by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def average(weights: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the mean of each leaf over networks: a uniform soup. Leaves have any shape.

    Reference: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", section 2.
    """
    return {
        name: np.mean([np.asarray(each[name], np.float64) for each in weights], axis=0).astype(np.float32)
        for name in weights[0]
    }


def interpolate(start: Mapping[str, Any], final: Mapping[str, Any], alpha: float) -> dict[str, np.ndarray]:
    """Returns (1 - alpha) start + alpha final for each leaf. Leaves have any shape.

    Reference: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT). In the paper, the classifier
    starts from zero-shot weights, so the whole network has a meaningful start.
    """
    a, b = 1 - alpha, alpha
    return {
        name: (a * np.asarray(start[name], np.float64) + b * np.asarray(final[name], np.float64)).astype(np.float32)
        for name in final
    }


def greedy_soup(scores: Sequence[float], score_of: Callable[[tuple[int, ...]], float]) -> tuple[tuple[int, ...], float]:
    """Returns the indices of the networks in the greedy soup, in the order of addition, and the score of the soup.

    The networks are tried from the highest to the lowest score. Each is added unless it lowers the score of the soup.

    Args:
      scores: the validation score of each network.
      score_of: returns the validation score of the average of networks, from their indices.

    Reference: Wortsman et al. 2022, "Model soups", recipe 1.
    """
    first, *others = sorted(range(len(scores)), key=lambda i: -scores[i])
    chosen: tuple[int, ...] = (first,)
    best = scores[first]
    for i in others:
        score = score_of((*chosen, i))
        if score >= best:
            chosen, best = (*chosen, i), score
    return chosen, best
