"""Rows of a port table: the name of a leaf in weight files, and the layout of its values there."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Port:
    """One row of a port table, for all leaves whose name matches a pattern.

    Attributes:
      leaf: regular expression for leaf names, such as `params/stem/conv/kernel`.
      tensor_name: name of the tensor in the file. It may contain groups of the pattern, such as `{block}`, or
        `{block-1}` for a file that counts from zero.
      from_file: converts an array from the layout of the file to the layout of jaxft.
      to_file: the inverse of `from_file`.
    """

    leaf: str
    tensor_name: str
    from_file: Callable[[np.ndarray], np.ndarray] = np.asarray
    to_file: Callable[[np.ndarray], np.ndarray] = np.asarray

    def tensor_of(self, leaf: str) -> str | None:
        """Returns the tensor name of a leaf, or None if this row is for other leaves."""
        match = re.fullmatch(self.leaf, leaf)
        if match is None:
            return None

        def value(placeholder: re.Match[str]) -> str:
            group = match[placeholder[1]]
            return str(int(group) - 1) if placeholder[2] else group

        return re.sub(r"\{(\w+?)(-1)?\}", value, self.tensor_name)


def port_conv(leaf: str, tensor_name: str) -> Port:
    """Returns the row for a convolution kernel: OIHW in PyTorch, HWIO in jaxft."""
    return Port(leaf, tensor_name, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))


def port_dense(leaf: str, tensor_name: str, flattened_channels: int | None = None) -> Port:
    """Returns the row for a dense kernel: [out, in] in PyTorch, [in, out] in jaxft.

    Args:
      leaf: the leaf.
      tensor_name: the tensor name.
      flattened_channels: number of channels of the map that is flattened before the layer. PyTorch flattens with
        channels first, jaxft with channels last. If None, no map is flattened.
    """
    if flattened_channels is None:
        return Port(leaf, tensor_name, np.transpose, np.transpose)

    def from_file(w: np.ndarray) -> np.ndarray:  # [out, C * H * W] -> [H * W * C, out]
        return w.reshape(w.shape[0], flattened_channels, -1).transpose(2, 1, 0).reshape(-1, w.shape[0])

    def to_file(w: np.ndarray) -> np.ndarray:
        return w.reshape(-1, flattened_channels, w.shape[1]).transpose(2, 1, 0).reshape(w.shape[1], -1)

    return Port(leaf, tensor_name, from_file, to_file)


def port_batch_norm(layer: str, tensor_name: str) -> tuple[Port, ...]:
    """Returns the rows for a batch norm: affine parameters, statistics, and the batch counter of PyTorch."""
    return (
        Port(f"params/{layer}/scale", f"{tensor_name}.weight"),
        Port(f"params/{layer}/bias", f"{tensor_name}.bias"),
        Port(f"batch_stats/{layer}/mean", f"{tensor_name}.running_mean"),
        Port(f"batch_stats/{layer}/var", f"{tensor_name}.running_var"),
        Port(f"counters/{layer}/num_batches_tracked", f"{tensor_name}.num_batches_tracked"),
    )
