"""Sums and maxima from which measures of parameter change are computed, by compiled code on a CPU.

XLA computes every sum on a CPU with a loop of its own, so the six sums and maxima of a leaf take about ten times as
long as one. The compiled code (`change_sums.cc`) reads every value once.
"""

import ctypes
import functools
import math
import platform
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxft.core.devices import num_cores
from jaxft.ops import native
from jaxft.ops.native import Unavailable

SOURCE = Path(__file__).with_suffix(".cc")
NUM_TERMS = 6  # (w - w0)^2, w0^2, w^2, w w0, changed signs, and the maximum of |w - w0|


class Leaf(NamedTuple):
    """The values of an array of R runs.

    Attributes:
      before: w0, float32 [R, ...], or [1, ...] if all runs share it.
      after: w, float32 [R, ...], or R arrays [...].
      filter_axis: the axis of the filters, without the axis of runs; None if all values are one filter.
    """

    before: np.ndarray
    after: np.ndarray | Sequence[np.ndarray]
    filter_axis: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the array of one run."""
        return self.before.shape[1:]

    @property
    def num_filters(self) -> int:
        """Returns the number of filters."""
        return 1 if self.filter_axis is None else self.shape[self.filter_axis]


def change_sums(leaves: Sequence[Leaf]) -> np.ndarray:
    """Returns [6, R, filters] float64 of the filters of all leaves, one leaf after the other.

    The first axis has the sums of (w - w0)^2, w0^2, w^2 and w w0, the number of changed signs (a zero has no sign), and
    the maximum of |w - w0|, which is nan if a difference is. A filter without values has zeros.

    Args:
      leaves: arrays with the same number R of runs, at least one.

    Raises:
      Unavailable: there is no compiled code; see `jaxft.ops.native`.
      MemoryError: there is not enough memory.
    """
    library = load()
    num_runs = len(leaves[0].after)
    columns = np.cumsum([0, *(leaf.num_filters for leaf in leaves)])
    arrays = [_dense(values) for leaf in leaves for values in (leaf.before, leaf.after)]  # kept until the call returns
    pointers = np.array([_pointers(values, num_runs) for values in arrays], np.uintp)
    shapes = np.array([[*_three_axes(leaf), column] for leaf, column in zip(leaves, columns)], np.int64)
    sums = np.zeros((NUM_TERMS, num_runs, int(columns[-1])))
    sizes = map(ctypes.c_int64, (len(leaves), num_runs, sums.shape[2], num_cores()))
    if library.jaxft_change_sums(*map(_pointer, (pointers, shapes)), *sizes, _pointer(sums)):
        raise MemoryError("not enough memory for the sums of all runs.")
    return sums


def _dense(values: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Returns one or several arrays with all values next to each other in memory; a copy only where necessary."""
    if isinstance(values, np.ndarray):
        return np.require(values, np.float32, ["C", "ALIGNED"])
    return [np.require(array, np.float32, ["C", "ALIGNED"]) for array in values]


def _pointers(values: np.ndarray | list[np.ndarray], num_runs: int) -> list[int]:
    """Returns the addresses of the arrays of all runs; `values` is [R, ...], [1, ...] or R arrays."""
    if isinstance(values, list):
        return [array.ctypes.data for array in values]
    first, step = values.ctypes.data, values[0].nbytes if len(values) > 1 else 0
    return [first + run * step for run in range(num_runs)]


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _three_axes(leaf: Leaf) -> tuple[int, int, int]:
    """Returns the numbers of values before the axis of filters, of filters, and of values after it."""
    if leaf.filter_axis is None:
        return 1, 1, math.prod(leaf.shape)
    axis = leaf.filter_axis % len(leaf.shape)
    return math.prod(leaf.shape[:axis]), leaf.num_filters, math.prod(leaf.shape[axis + 1 :])


_loading = threading.Lock()  # the first calls may come from several threads


def load() -> ctypes.CDLL:
    """Returns the compiled code. The first call compiles it if necessary.

    Raises:
      Unavailable: there is no compiled code.
    """
    with _loading:
        loaded = _load_once()
    if isinstance(loaded, str):
        raise Unavailable(loaded)
    return loaded


@functools.cache
def _load_once() -> ctypes.CDLL | str:
    """Returns the compiled code, or the reason why it is not available."""
    try:
        versions = [sys.platform, platform.machine()]
        return ctypes.CDLL(str(native.compiled(SOURCE, versions, ["-O3", "-pthread"])))
    except (Unavailable, OSError) as reason:
        return str(reason)
