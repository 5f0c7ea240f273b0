"""Rows of a port table: how a leaf is called in a weight file, and how its values lie there."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Port:
    """One row of a port table: where the leaves whose name matches `leaf` lie in a weight file.

    `foreign` may name the groups of the pattern, less one where the foreign file counts from zero: `{block-1}`.
    `to_ours` and `to_foreign` are each other's inverse.
    """

    leaf: str
    foreign: str
    to_ours: Callable[[np.ndarray], np.ndarray] = np.asarray
    to_foreign: Callable[[np.ndarray], np.ndarray] = np.asarray

    def foreign_name(self, leaf: str) -> str | None:
        """Returns the foreign name of our leaf, or None where this row is not about it."""
        match = re.fullmatch(self.leaf, leaf)
        if match is None:
            return None

        def value(placeholder: re.Match[str]) -> str:
            group = match[placeholder[1]]
            return str(int(group) - 1) if placeholder[2] else group

        return re.sub(r"\{(\w+?)(-1)?\}", value, self.foreign)


def port_conv(leaf: str, foreign: str) -> Port:
    """Returns the row for a convolution: PyTorch's OIHW, ours HWIO."""
    return Port(leaf, foreign, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))


def port_dense(leaf: str, foreign: str, flattened_channels: int | None = None) -> Port:
    """Returns the row for a dense layer: PyTorch's [out, in], ours [in, out].

    `flattened_channels` are those of the square map that is flattened before it: PyTorch's flattening has the
    channels first, ours last.
    """
    if flattened_channels is None:
        return Port(leaf, foreign, np.transpose, np.transpose)

    def to_ours(w: np.ndarray) -> np.ndarray:  # [out, C * H * W] -> [H * W * C, out]
        return w.reshape(w.shape[0], flattened_channels, -1).transpose(2, 1, 0).reshape(-1, w.shape[0])

    def to_foreign(w: np.ndarray) -> np.ndarray:
        return w.reshape(-1, flattened_channels, w.shape[1]).transpose(2, 1, 0).reshape(w.shape[1], -1)

    return Port(leaf, foreign, to_ours, to_foreign)


def port_batch_norm(ours: str, foreign: str) -> tuple[Port, ...]:
    """Returns the rows for a batch norm: parameters, statistics, and PyTorch's counter of batches."""
    return (
        Port(f"params/{ours}/scale", f"{foreign}.weight"),
        Port(f"params/{ours}/bias", f"{foreign}.bias"),
        Port(f"batch_stats/{ours}/mean", f"{foreign}.running_mean"),
        Port(f"batch_stats/{ours}/var", f"{foreign}.running_var"),
        Port(f"counters/{ours}/num_batches_tracked", f"{foreign}.num_batches_tracked"),
    )
