"""Streaming of image sets that do not fit in device memory, in windows of several steps.

Row indices always refer to the whole image set, on the host and on the device. So the same compiled step reads from a
`Window` or from an array of all images. The step number determines the images of a window, so training can resume at
any step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import byte_size

WINDOW_BYTES = 64e6  # maximum size of a window, except that it holds the images of at least one step
AHEAD = 2  # number of windows read in advance


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """Some of the n images of a set, indexed by their rows in the whole set. Other rows give arbitrary images.

    Attributes:
      images: [capacity, h, w, 3] uint8.
      position_of: [n] int32, the position in `images` of each row of the whole set.
    """

    images: Any
    position_of: Any

    def __len__(self) -> int:
        """Returns the number of images of the whole set."""
        return len(self.position_of)

    def __getitem__(self, rows: Any) -> Any:
        """Returns the images of `rows` of any shape: [*rows.shape, h, w, 3] uint8."""
        return self.images[self.position_of[rows]]


class Stream:
    """Images [n, h, w, 3] uint8 on the host, usually a memory map, that are sent to the device in windows.

    Raises:
      UserError: grain (the extra 'stream') is not installed.
    """

    def __init__(self, images: np.ndarray):
        try:
            import grain  # noqa: F401 - a missing package is an error before training
        except ImportError:
            raise UserError(
                f"the images take {byte_size(images.nbytes)}, more than 'execution.device_data_bytes'; streaming "
                "needs the extra 'stream': pip install 'jaxft[stream]'."
            ) from None
        self.images = images

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [n, h, w, 3]."""
        return self.images.shape

    def window(self, rows: np.ndarray, capacity: int) -> Window:
        """Returns a window with the images of `rows`, an integer array of any shape, padded to `capacity` images."""
        needed = np.unique(rows)  # ascending, the order on disk
        images = np.zeros((capacity, *self.shape[1:]), np.uint8)
        images[: len(needed)] = self.images[needed]
        position_of = np.zeros(len(self), np.int32)
        position_of[needed] = np.arange(len(needed), dtype=np.int32)
        return Window(images, position_of)

    def windows(self, rows_of: Callable[[int], np.ndarray], capacity: int, first: int, count: int) -> Iterator[Window]:
        """Yields the windows `first` to `count` - 1; background threads read the next windows in advance.

        Args:
          rows_of: returns the rows of a window, an integer array of any shape, from the number of the window.
          capacity: number of images of a padded window.
          first: number of the first window.
          count: number of all windows.
        """
        import grain

        windows = grain.MapDataset.range(first, count).map(lambda number: self.window(rows_of(int(number)), capacity))
        yield from windows.to_iter_dataset(grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD))


Pixels = jax.Array | Stream


def put_or_stream(images: np.ndarray, max_device_bytes: float) -> Pixels:
    """Returns `images: [n, h, w, 3] uint8` on the device, or as a stream if they exceed `max_device_bytes`."""
    return Stream(images) if images.nbytes > max_device_bytes else jax.numpy.asarray(images)


def steps_per_window(images: Stream, images_per_step: int) -> int:
    """Returns the number of steps whose images fit in one window, at least 1."""
    return max(int(WINDOW_BYTES // (images_per_step * int(np.prod(images.shape[1:])))), 1)


def load_rows(images: Pixels, rows: np.ndarray) -> Any:
    """Returns an array or window that contains the images of `rows`, an integer array of any shape."""
    return images.window(rows, rows.size) if isinstance(images, Stream) else images


class Windows:
    """The windows of a range of steps, read in order.

    Args:
      images: the stream.
      rows: [trials, steps, batch], the row indices that each step reads.
      put: places a window on the device.
    """

    def __init__(self, images: Stream, rows: np.ndarray, put: Callable[[Any], Any]):
        self.images, self.rows, self.put = images, rows, put
        trials, self.num_steps, batch = rows.shape
        self.length = steps_per_window(images, trials * batch)
        self.capacity = min(self.length * trials * batch, len(images))
        self._open: tuple[int, Any] = (-1, None)
        self._ahead: Iterator[Window] = iter(())
        self._next = -1

    def at(self, step: int) -> tuple[Any, int]:
        """Returns the window of a step, on the device, and the number of steps, from this one, that it covers."""
        number = step // self.length
        if number != self._open[0]:
            if number != self._next:
                self._ahead = self.images.windows(
                    self._rows_of, self.capacity, number, -(-self.num_steps // self.length)
                )
            self._open = number, self.put(next(self._ahead))
            self._next = number + 1
        return self._open[1], (number + 1) * self.length - step

    def _rows_of(self, number: int) -> np.ndarray:
        return self.rows[:, number * self.length : (number + 1) * self.length]
